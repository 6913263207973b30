package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/wire"
)

// Request sends r to the responders of e and returns the reply of the one that received it. If
// ctx has no deadline, the timeout of the bus applies.
//
// Errors: ErrNoResponders; ErrTimeout; *RemoteError, which is what the responder returned;
// ErrUnknownOutcome if the bus was closed, or the program forced a reconnect, before the reply
// came; *CodecError or *ValidationError about the request or the reply; *CapturedError if a
// stream stores the subject, because the stream would answer first; *SubjectError,
// *PayloadError, *OptionError, ErrClosed. If the stream is known, the request is not sent.
// Otherwise the stream has stored it and responders may have handled it (CapturedError.Sent).
//
// A lost connection and a SwitchTo do not end a request that is under way: the reply comes if
// it is sent when the connection is back.
func Request[Resp, Req any](ctx context.Context, b *Bus, e Endpoint[Req, Resp], r Req, opts ...RequestOption) (Resp, error) {
	var none Resp
	if err := b.callable(ctx, "Request"); err != nil {
		return none, err
	}
	o, err := requestOptions(opts)
	if err != nil {
		return none, err
	}
	var m outlet.Message
	if err := encode(&m, b.format, string(e), r, o); err != nil {
		return none, err
	}
	if err := b.core.Outlet.CheckSize(&m); err != nil {
		return none, payloadError(err)
	}
	if err := b.answerable(ctx, m.Subject); err != nil {
		return none, err
	}
	if encoding := b.format.Encoding(); encoding != "" {
		m.SetHeader(wire.HeaderAcceptEncoding, encoding)
	}
	bounded, done := b.core.Bound(ctx)
	defer done()
	reply, err := b.core.Outlet.Request(bounded, &m)
	if err != nil {
		return none, b.unanswered(ctx, b.opError("Request", m.Subject, err))
	}
	if err := b.checkAnswer(bounded, m.Subject, reply); err != nil {
		return none, err
	}
	return decodeReply[Resp](b, string(e), o, reply)
}

// unanswered adds to err, the failure of a request with ctx, whose time is over.
func (b *Bus) unanswered(ctx context.Context, err error) error {
	if !errors.Is(err, ErrTimeout) {
		return err
	}
	if end, own := ctx.Deadline(); own && time.Until(end) <= 0 {
		return fmt.Errorf("%w; no reply came by the deadline of ctx", err)
	}
	return fmt.Errorf("%w; no reply came within %v (WithTimeout, or a deadline of ctx)", err, b.core.Timeout)
}

// answerable returns a *CapturedError if a stream stores subj. Its acknowledgement would come
// before every reply, and would be taken for it.
func (b *Bus) answerable(ctx context.Context, subj string) error {
	if c := b.captures.Find(subj); c == nil || c.NoAck {
		return nil
	}
	if c := b.captures.Confirm(ctx, subj); c != nil && !c.NoAck {
		return &CapturedError{Call: "Request", Subject: subj, Stream: c.Name}
	}
	return nil
}

// checkAnswer returns a *CapturedError if reply is the answer of a stream that the bus did
// not know when it sent the request.
func (b *Bus) checkAnswer(ctx context.Context, subj string, reply *nats.Msg) error {
	stream, domain, ok := outlet.AnswerOfStream(reply)
	if !ok || !b.captures.IsAnswerOf(ctx, subj, stream, domain) {
		return nil
	}
	b.core.Counters.RequestErrors.Add(1)
	return &CapturedError{Call: "Request", Subject: subj, Stream: stream, Sent: true}
}

// decodeReply makes the value of a reply, or the error that the reply carries. Request calls it.
func decodeReply[Resp any](b *Bus, subj string, o *sendOptions, reply *nats.Msg) (Resp, error) {
	var none Resp
	if data, ok := any(&none).(*[]byte); ok && len(reply.Header) == 0 {
		*data = reply.Data // plain bytes: there is nothing to decode
		return none, nil
	}
	raw := newRaw(&wire.In{Subject: subj, Header: reply.Header, Data: reply.Data}, nil)
	if err := remoteError(raw); err != nil {
		b.core.Counters.RequestErrors.Add(1)
		return none, err
	}
	t := payload.TypeOf[Resp](b.format)
	var call codec.Codec
	if o != nil && t.Implied == nil {
		call = o.codec
	}
	m, err := decode[Resp](b.format, t, call, raw)
	if err != nil {
		b.core.Counters.RequestErrors.Add(1)
		return none, err
	}
	return m.Data, nil
}

// remoteError returns the error in the headers of the NATS micro protocol, or nil.
func remoteError(m *RawMsg) error {
	if len(m.Header) == 0 {
		return nil
	}
	message, code := m.Header.Get(wire.HeaderNatsServiceError), m.Header.Get(wire.HeaderNatsServiceErrorCode)
	if message == "" && code == "" {
		return nil
	}
	return &RemoteError{Subject: m.Subject, Code: code, Message: message}
}
