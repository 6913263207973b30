package bus

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/discovery"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/payload"
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
		return nil, badArgument("Respond", "responder", "is nil")
	}
	if err := b.usable("Respond"); err != nil {
		return nil, err
	}
	o := newHandlerOptions()
	if err := applyAll(opts, o, RespondOption.onRespond); err != nil {
		return nil, err
	}
	if !o.group.set {
		o.group.name = b.cfg.name
	}
	return b.respond(string(e), o, answering(b, fn))
}

// answering makes a handler that sends fn's answer.
func answering[Req, Resp any](b *Bus, fn Responder[Req, Resp]) maker {
	return func(f *payload.Format, o *handlerOptions) RawHandler {
		info := payload.TypeOf[Req](f)
		return func(ctx context.Context, raw *RawMsg) error {
			m, err := decode[Req](f, info, o.codec, raw)
			if err != nil {
				return badRequest(err)
			}
			resp, err := fn(ctx, m)
			if err != nil {
				return err
			}
			return reply(ctx, b, raw, resp, o.codec)
		}
	}
}

// asked is the context in which a request is handled. It knows where the answer goes,
// which a message of a middleware's own making would not, and for which a message has
// no room: with it each would take 144 bytes instead of 128.
type asked struct {
	context.Context
	reply string // the subject of the answer; "" where none is wanted
}

type replyKey struct{}

func (a *asked) Value(key any) any {
	if key == (replyKey{}) {
		return a
	}
	return a.Context.Value(key)
}

// errNoRequest is the error of a request whose answer has nowhere to go.
var errNoRequest = errors.New("bus: a middleware has replaced the context of the request; derive the new one from it")

// reply sends v to whoever asks in ctx, if an answer is wanted, in the codec of the
// request m; assumed is the one that m was read with where it names none, or nil.
func reply[T any](ctx context.Context, b *Bus, m *RawMsg, v T, assumed codec.Codec) error {
	a, ok := ctx.Value(replyKey{}).(*asked)
	if !ok {
		return errNoRequest
	}
	if a.reply == "" {
		return nil
	}
	out := outlet.Message{Out: wire.Out{Subject: a.reply}}
	err := payload.EncodeReply(b.format, &out, v, payload.Request{Subject: m.Subject, Header: wire.Header(m.Header), Assumed: assumed})
	if err == nil {
		err = b.core.Outlet.CheckSize(&out)
	}
	if err != nil {
		return payloadError(err)
	}
	return translate(b.core.Outlet.Reply(ctx, &out))
}

func (b *Bus) respond(pattern string, o *handlerOptions, mk maker) (*Subscription, error) {
	s := &Subscription{bus: b, stage: lifecycle.StageResponders}
	if err := b.services.Start(); err != nil {
		return nil, b.opError("Respond", pattern, err)
	}
	if err := s.open(pattern, o, mk, s.answer); err != nil {
		return nil, err
	}
	s.endpoint = &discovery.Endpoint{Subject: pattern, Group: o.group.name, Stats: s.endpointStats}
	b.services.Add(s.endpoint)
	return s, nil
}

// badRequest makes the error of a request that could not be read one that the
// requester is told of, without its text: it may quote what Validate knows.
func badRequest(err error) error {
	if _, ok := errors.AsType[*PublicError](err); ok {
		return err // Validate has its own words for the requester
	}
	if _, ok := errors.AsType[*ValidationError](err); ok {
		return &PublicError{Code: "400", Message: "invalid request", cause: err}
	}
	if errors.Is(err, payload.ErrUnknown) {
		return &PublicError{Code: "415", Message: "unknown content type or encoding", cause: err}
	}
	return &PublicError{Code: "400", Message: "malformed request", cause: err}
}

// answer handles a request.
func (s *Subscription) answer(in wire.In, number int64) {
	m := newRaw(&in, nil)
	err := errExited
	defer func() {
		if err != nil {
			s.refuse(m, in.Reply, err)
		}
	}()
	_, err = s.receiver.callIn(&asked{s.receiver.ctx, in.Reply}, m, number)
}

// refuse reports err and tells the requester, at the subject reply, what may be told.
func (s *Subscription) refuse(m *RawMsg, reply string, err error) {
	public, ok := errors.AsType[*PublicError](err)
	switch {
	case !ok || public == nil:
		public = unknownError
		s.failed(m, err)
	case public.cause != nil:
		s.failed(m, public.cause)
	}
	public = public.cleaned()
	text := public.Error()
	s.receiver.lastError.Store(&text)
	if reply == "" {
		return
	}
	out := outlet.Message{Out: wire.Out{Subject: reply}}
	out.SetHeader(wire.HeaderNatsServiceError, public.Message)
	out.SetHeader(wire.HeaderNatsServiceErrorCode, public.Code)
	if err := s.bus.core.Outlet.Reply(context.Background(), &out); err != nil {
		s.failed(m, err)
	}
}

// cleaned is e as it travels: its fields may have been set without Public. Without a
// code the requester would take the reply for a good one.
func (e *PublicError) cleaned() *PublicError {
	c := &PublicError{Code: strings.TrimSpace(cut(oneLine(e.Code))), Message: strings.TrimSpace(cut(oneLine(e.Message)))}
	if c.Code == "" {
		c.Code = internalCode
	}
	return c
}

// longestPublic is how many bytes of a public error's code and text travel: the
// reply must always fit.
const longestPublic = 2048

func cut(s string) string {
	if len(s) <= longestPublic {
		return s
	}
	return strings.ToValidUTF8(s[:longestPublic], "") // no half characters
}

// newDiscovery returns what answers discovery requests for the responders of b.
func newDiscovery(b *Bus) *discovery.Service {
	return discovery.New(discovery.Config{
		Core: b.core, Name: b.cfg.name, Version: b.cfg.version,
		PendingMsgs: defaultPendingMsgs, PendingBytes: defaultPendingBytes,
		Register:   func(s *discovery.Service) error { return b.registry.Add(lifecycle.StageDiscovery, s, nil) },
		Unregister: func(s *discovery.Service) { b.registry.Remove(s) },
	})
}

// endpointStats returns what discovery publishes about a responder.
func (s *Subscription) endpointStats() discovery.Stats {
	st := discovery.Stats{Requests: int(s.core.Begun()), Errors: int(s.receiver.counters.Errors.Load()),
		Busy: time.Duration(s.receiver.busy.Load())}
	if last := s.receiver.lastError.Load(); last != nil {
		st.LastError = *last
	}
	return st
}
