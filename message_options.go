package bus

import (
	"fmt"
	"strconv"

	"github.com/nats-io/nuid"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// PublishOption changes one Publish.
type PublishOption interface{ onPublish(*sendOptions) }

// RequestOption changes one Request.
type RequestOption interface{ onRequest(*sendOptions) }

// StoreOption changes one PublishTo, PublishToAsync or ItemOf.
type StoreOption interface{ onStore(*sendOptions) }

// MessageOption changes one message, however it is sent.
type MessageOption interface {
	PublishOption
	RequestOption
	StoreOption
}

// sendOptions are the options of one message.
type sendOptions struct {
	header wire.Header
	codec  codec.Codec
	id     string
	autoID bool
	expect *outlet.Expectation
	optionErrors
}

// messageOption is an option of a message, however it is sent.
type messageOption func(*sendOptions)

func (f messageOption) onPublish(o *sendOptions) { f(o) }
func (f messageOption) onRequest(o *sendOptions) { f(o) }
func (f messageOption) onStore(o *sendOptions)   { f(o) }

// WithHeader adds a value to the header of the message. Headers that the library writes
// itself (Content-Type, Nats-Msg-Id, …) are refused; their options are As, MsgID and
// WithCompression. Other headers that begin with Nats- mean something to the server and are
// refused too, except Nats-Expected-Stream, Nats-Expected-Last-Msg-Id, Nats-Incr, Nats-Rollup,
// Nats-Schedule, Nats-Schedule-Rollup, Nats-Schedule-Source, Nats-Schedule-Target,
// Nats-Schedule-Time-Zone and Nats-Schedule-TTL. An error does not show the value.
func WithHeader(key, value string) MessageOption {
	return messageOption(func(o *sendOptions) {
		if err := wire.CheckHeader(key, value); err != nil {
			o.addError(&OptionError{Option: "WithHeader", Value: fmt.Sprintf("%q, …", key), Reason: err.Error()})
			return
		}
		o.set(key, append(o.header[key], value)...)
	})
}

// msgIDOption is an option of Publish and PublishTo.
type msgIDOption interface {
	PublishOption
	StoreOption
}

// MsgID sets the ID of the message, which the receiver finds in Msg.ID. A stream stores a
// message with the same ID once within its Duplicates window. So PublishTo can send it again
// until it knows the outcome. An ID is one line of text of 1 to 256 bytes.
func MsgID(id string) msgIDOption { //nolint:revive // callers only pass it on
	return messageOption(func(o *sendOptions) {
		if id == "" || len(id) > 256 {
			o.addError(&OptionError{Option: "MsgID", Value: strconv.Quote(id), Reason: "must have 1 to 256 bytes"})
			return
		}
		if err := wire.CheckValue(id); err != nil {
			o.addError(&OptionError{Option: "MsgID", Value: strconv.Quote(id), Reason: err.Error()})
			return
		}
		o.id = id
		o.set(wire.HeaderNatsMsgID, id)
	})
}

func (o *sendOptions) set(key string, values ...string) {
	if o.header == nil {
		o.header = make(wire.Header)
	}
	o.header[key] = values
}

// publishOptions applies opts. Without options it returns nil, which costs nothing.
func publishOptions(opts []PublishOption) (*sendOptions, error) {
	if len(opts) == 0 {
		return nil, nil
	}
	o := new(sendOptions)
	return o, applyAll(opts, o, PublishOption.onPublish)
}

func requestOptions(opts []RequestOption) (*sendOptions, error) {
	if len(opts) == 0 {
		return nil, nil
	}
	o := new(sendOptions)
	return o, applyAll(opts, o, RequestOption.onRequest)
}

func storeOptions(opts []StoreOption) (*sendOptions, error) {
	if len(opts) == 0 {
		return nil, nil
	}
	o := new(sendOptions)
	err := applyAll(opts, o, StoreOption.onStore)
	o.fillID()
	return o, err
}

// fillID makes an identifier where AutoID asks for one.
func (o *sendOptions) fillID() {
	if o.autoID && o.id == "" {
		o.id = nuid.Next()
		o.set(wire.HeaderNatsMsgID, o.id)
	}
}
