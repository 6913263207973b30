package bus

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nuid"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/wire"
)

// Header is the header of a message: values by name. Names are case-sensitive.
type Header map[string][]string

// Get returns the first value of key, or "". If there is no such key, it ignores case, because
// clients write names differently.
func (h Header) Get(key string) string { return wire.Get(h, key) }

// Values returns all values of exactly key.
func (h Header) Values(key string) []string { return h[key] }

// Set replaces the values of key. As with any map, h must not be nil.
func (h Header) Set(key, value string) { h[key] = []string{value} }

// Msg is one received message. A handler may keep it.
type Msg[T any] struct {
	Data    T
	Subject string // the subject it was published to
	Header  Header // nil if it has none
	ID      string // of MsgID; without one "stream/sequence", or "" for a core message

	Time     time.Time // when the stream stored it; zero for a core message
	Stream   string    // empty for a core message
	Sequence uint64    // in the stream, from 1; 0 for a core message
	// Attempt is the number of this handler call for the message, from 1. Only calls that
	// failed count: not one that the end of the bus interrupted or that returned Postpone.
	// It survives an orderly stop. If a process dies, the attempts of the messages that it
	// had are forgotten.
	Attempt int
	// Deliveries is how often the server has sent the message, from 1; 0 for a core message.
	// Messages that were fetched and not handled count too. It begins again at 1 after a
	// long retry delay and after Redrive.
	Deliveries int
}

// RawMsg is a message that is not decoded. Data may be compressed. Middleware sees messages in
// this form.
type RawMsg = Msg[[]byte]

// newRaw makes the message that middleware and handlers see. s is nil for a core
// message.
func newRaw(in *wire.In, s *wire.Stored) *RawMsg {
	m := &RawMsg{Data: in.Data, Subject: in.Subject, Header: in.Header, Attempt: 1}
	if len(in.Header) > 0 {
		m.ID = messageID(in.Header)
	}
	if s != nil {
		m.Time, m.Stream, m.Sequence, m.Attempt, m.Deliveries = s.Time, s.Stream, s.Sequence, s.Attempt, s.Deliveries
		if m.ID == "" {
			var digits [20]byte
			m.ID = s.Stream + "/" + string(strconv.AppendUint(digits[:0], s.Sequence, 10)) // one allocation
		}
	}
	return m
}

func messageID(h wire.Header) string {
	if id := wire.Get(h, wire.HeaderBusID); id != "" {
		return id
	}
	return wire.Get(h, wire.HeaderNatsMsgID)
}

// retyped returns m with data of another type.
func retyped[New, Old any](m *Msg[Old], data New) *Msg[New] {
	return &Msg[New]{Data: data, Subject: m.Subject, Header: m.Header, ID: m.ID, Time: m.Time, Stream: m.Stream,
		Sequence: m.Sequence, Attempt: m.Attempt, Deliveries: m.Deliveries}
}

// decode makes m a message of type T, which info describes. call is the codec of messages
// that name none; nil means that the rules of the bus apply.
func decode[T any](f *payload.Format, info *payload.Type, call codec.Codec, m *RawMsg) (*Msg[T], error) {
	if same, ok := any(m).(*Msg[T]); ok && len(m.Header) == 0 {
		return same, nil // bytes: there is nothing to decode
	}
	typed := retyped(m, *new(T))
	in := wire.In{Subject: m.Subject, Header: wire.Header(m.Header), Data: m.Data}
	return typed, payloadError(f.Decode(info, &in, call, &typed.Data))
}

// encode makes m, which is empty, the message with v for the literal subject subj. o may
// be nil.
func encode[T any](m *outlet.Message, f *payload.Format, subj string, v T, o *sendOptions) error {
	m.Subject = subj
	if err := checkLiteral(subj); err != nil {
		return err
	}
	var call codec.Codec
	if o != nil {
		call, m.Header, m.ID = o.codec, o.header, o.id
	}
	return payloadError(payload.Encode(f, m, v, call))
}

// payloadError turns an error of internal/payload, or of the check of the size, into the
// public one.
func payloadError(err error) error {
	switch e := err.(type) { //nolint:errorlint // they are not wrapped
	case *payload.CodecError:
		return &CodecError{Subject: e.Subject, ContentType: e.ContentType, Encoding: e.Encoding, Op: e.Op, Err: e.Err}
	case *payload.InvalidError:
		return &ValidationError{Subject: e.Subject, Type: e.Type, Err: e.Err}
	case *outlet.TooLargeError:
		return &PayloadError{Subject: e.Subject, Size: e.Size, Limit: e.Limit}
	}
	return err
}

// unreadable marks the error of a message that could not be decoded or is not valid. A
// handler may return the same error about something else.
type unreadable struct{ err error }

func (e *unreadable) Error() string { return e.err.Error() }
func (e *unreadable) Unwrap() error { return e.err }

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
//
// A server that restarts keeps the IDs of the messages that are still in the stream. It forgets
// those of removed messages, such as handled ones of a work queue. One call of PublishTo never
// stores a message twice for that reason: if the server may have forgotten the ID, the error
// is ErrUnknownOutcome. A second call with the same ID does store it again. Streams with
// Replicas forget only if all their servers restart at once.
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
