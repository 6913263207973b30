package bus

import (
	"context"
	"errors"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

const (
	internalCode    = "500"
	internalMessage = "internal error"
)

// Respond answers requests to e, which may have wildcards. All responders of one
// queue group share the requests; unless Queue says otherwise that is the group
// named after the bus (WithName), so that instances of one program share them.
// The responder shows up as an endpoint of the service named after the bus in
// the NATS micro protocol (`nats micro ls`). Requests are handled one at a time
// unless Concurrency says otherwise.
//
// The reply is encoded as the request was, and compressed when the requester
// asks for it. A message that wants no reply is handled all the same. Errors are
// those of Subscribe.
func Respond[Req, Resp any](b *Bus, e Endpoint[Req, Resp], fn Responder[Req, Resp], opts ...RespondOption) (*Subscription, error) {
	if fn == nil {
		return nil, &ArgumentError{Func: "Respond", Arg: "responder", Reason: "is nil"}
	}
	if err := b.usable("Respond"); err != nil {
		return nil, err
	}
	o := newHandleOptions()
	for _, opt := range opts {
		opt.onRespond(o)
	}
	if !o.grouped {
		o.group = b.cfg.name
	}
	return b.respond(string(e), o, answering(b, fn))
}

// answering makes a handler that sends fn's answer.
func answering[Req, Resp any](b *Bus, fn Responder[Req, Resp]) maker {
	return func(f *format, o *handleOptions) RawHandler {
		info := typeOf[Req](f)
		return func(ctx context.Context, raw *RawMsg) error {
			m, err := decode[Req](f, info, o.assumed(f, info, raw.Subject), raw)
			if err != nil {
				return err
			}
			resp, err := fn(ctx, m)
			if err != nil || raw.reply == "" {
				return err
			}
			return reply(ctx, b, raw, resp)
		}
	}
}

// reply sends v to whoever sent m, in m's codec.
func reply[T any](ctx context.Context, b *Bus, m *RawMsg, v T) error {
	out, err := encodeReply(b.format, m, v)
	if err != nil {
		return err
	}
	if err := checkSize(&out, b.link.MaxPayload()-payloadReserve); err != nil {
		return err
	}
	return translate(b.outlet.Reply(ctx, &out))
}

// encodeReply makes v the answer to m, in m's codec where v's type leaves a
// choice, compressed as m accepts.
func encodeReply[T any](f *format, m *RawMsg, v T) (outlet.Message, error) {
	out := outlet.Message{Out: wire.Out{Subject: m.reply}, Template: m.Subject}
	var asked codec.Codec
	if text := m.Header.Get(wire.HeaderContentType); text != "" && typeOf[T](f).implied == nil {
		var err error
		if asked, err = f.known.ByContentType(text); err != nil {
			return out, &CodecError{Subject: m.Subject, ContentType: text, Op: "encode", Err: err}
		}
	}
	if err := marshal(f, &out, m.Subject, v, asked); err != nil {
		return out, err
	}
	return out, f.compress(&out, wire.Acceptable(m.Header.Get(wire.HeaderAcceptEncoding)))
}

func (b *Bus) respond(pattern string, o *handleOptions, mk maker) (*Subscription, error) {
	s := &Subscription{bus: b, stage: stageResponders}
	if err := b.services.start(); err != nil {
		return nil, translate(err)
	}
	err := s.open(pattern, o, mk, func(m *RawMsg, n int64) {
		if _, err := s.receiver.call(m, n); err != nil {
			s.refuse(m, err)
		}
	})
	if err != nil {
		return nil, err
	}
	b.services.add(s)
	return s, nil
}

// refuse reports err and tells the requester what may be told.
func (s *Subscription) refuse(m *RawMsg, err error) {
	var public *PublicError
	if !errors.As(err, &public) {
		public = &PublicError{Code: internalCode, Message: internalMessage}
		s.failed(m, err)
	}
	if m.reply == "" {
		return
	}
	out := outlet.Message{Out: wire.Out{Subject: m.reply}, Template: m.Subject}
	out.SetHeader(wire.HeaderNatsServiceError, public.Message)
	out.SetHeader(wire.HeaderNatsServiceErrorCode, public.Code)
	if err := s.bus.outlet.Reply(context.Background(), &out); err != nil {
		s.failed(m, err)
	}
}
