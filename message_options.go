package bus

import (
	"fmt"
	"strconv"

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

// sendOptions is what the options of one call say.
type sendOptions struct {
	header wire.Header
	codec  codec.Codec
	id     string
	autoID bool
	expect *outlet.Expectation
	optionErrors
}

type messageOption func(*sendOptions)

func (f messageOption) onPublish(o *sendOptions) { f(o) }
func (f messageOption) onRequest(o *sendOptions) { f(o) }
func (f messageOption) onStore(o *sendOptions)   { f(o) }

// WithHeader adds a value to the header of the message. The names that the
// library writes itself (Content-Type, Nats-Msg-Id, …) are refused; their
// options are As, MsgID and WithCompression.
func WithHeader(key, value string) MessageOption {
	return messageOption(func(o *sendOptions) {
		if err := wire.CheckHeader(key, value); err != nil {
			o.addError(&OptionError{Option: "WithHeader", Value: fmt.Sprintf("%q, %q", key, value), Reason: err.Error()})
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

// MsgID names the message: Msg.ID at the receiver. A stream stores a message
// with the same ID once within its Duplicates window, and PublishTo then repeats
// itself until it knows the outcome. One line of text, at most 256 bytes.
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

// codecOption is an option of a message, a handler or Replay.
type codecOption interface {
	MessageOption
	HandlerOption
	ReplayOption
}

type asOption struct{ codec codec.Codec }

// As encodes this message with c, whatever its type and the bus's rules say. As
// an option of a handler, or of Replay, it decodes messages that carry no content type.
func As(c codec.Codec) codecOption { //nolint:revive // callers only pass it on
	return asOption{c}
}

func (a asOption) apply(o *sendOptions) {
	if err := a.check(); err != nil {
		o.addError(err)
		return
	}
	o.codec = a.codec
}

func (a asOption) check() error {
	if err := wire.CheckCodec(a.codec); err != nil {
		return &OptionError{Option: "As", Value: contentTypeOf(a.codec), Reason: err.Error()}
	}
	return nil
}

func (a asOption) onPublish(o *sendOptions) { a.apply(o) }
func (a asOption) onRequest(o *sendOptions) { a.apply(o) }
func (a asOption) onStore(o *sendOptions)   { a.apply(o) }

func (o *sendOptions) set(key string, values ...string) {
	if o.header == nil {
		o.header = make(wire.Header)
	}
	o.header[key] = values
}

// publishOptions collects opts; nil stands for none and costs nothing.
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
