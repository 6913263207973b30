package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/access"
	"github.com/omnibus-go/bus/internal/discovery"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/wire"
)

// Respond answers requests to e, which may have wildcards. The responders of one queue group
// share the requests. The default group is named after the bus (WithName), so the processes
// of one program share them; Queue sets another one. The responder is an endpoint of the
// service that is named after the bus in the NATS micro protocol (`nats micro ls`). Requests
// are handled one at a time, unless Concurrency says otherwise.
//
// The reply is encoded with the codec of the request, and compressed if the requester asks for
// it. A message without a reply subject is handled too. So is one whose reply subject belongs to
// the server ("$JS.API.…") or is stored by a known stream. It gets no answer, and an
// event.HandlerFailed says why: the requester chose that subject, and the answer would use
// the rights of the responder. The errors are those of Subscribe.
func Respond[Req, Resp any](b *Bus, e Endpoint[Req, Resp], fn Responder[Req, Resp], opts ...RespondOption) (*Subscription, error) {
	if fn == nil {
		return nil, badArgument("Respond", "responder", "is nil")
	}
	if err := b.usable("Respond"); err != nil {
		return nil, err
	}
	o := newHandlerOptions()
	_ = applyAll(opts, o, RespondOption.onRespond) // what is wrong is returned with the rest
	addPattern(o, string(e))
	if err := o.joined(); err != nil {
		return nil, err
	}
	if !o.group.set {
		o.group.name = b.cfg.name
	}
	return b.respond(string(e), o, answering(b, fn))
}

// answering makes a handler that calls fn and sends its reply.
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

// asked is the context of a request. It has the reply subject. A message that a middleware
// made itself would not have that, and in each message it would take 16 bytes.
type asked struct {
	context.Context
	reply string // the subject of the answer; "" where none is wanted
}

// replyKey is the context key of the subject of the answer.
type replyKey struct{}

func (a *asked) Value(key any) any {
	if key == (replyKey{}) {
		return a
	}
	return a.Context.Value(key)
}

// errNoRequest is the error of a request whose answer has nowhere to go.
var errNoRequest = errors.New("bus: a middleware has replaced the context of the request; derive the new one from it")

// reply sends v to the requester of ctx, if a reply is wanted, in the codec of the request m.
// assumed is the codec of a request that names none; it may be nil.
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
	if stream := b.captures.Overlapping(pattern); stream != "" {
		b.cfg.logger.Warn("a stream stores requests to this responder, and answers them before it: no Request reaches it; use a subject that no stream stores", "subject", pattern, "stream", stream)
	}
	s.endpoint = &discovery.Endpoint{Subject: pattern, Group: o.group.name, Stats: s.endpointStats}
	b.services.Add(s.endpoint)
	return s, nil
}

// answer handles one request. A worker calls it.
func (s *Subscription) answer(in wire.In, number int64) {
	m := newRaw(&in, nil)
	if err := s.bus.captures.CheckReply(in.Reply); err != nil {
		s.failed(m, err)
		in.Reply = ""
	}
	err := errExited
	defer func() {
		if err != nil {
			s.refuse(m, in.Reply, err)
		}
	}()
	_, err = s.receiver.callIn(&asked{s.receiver.ctx, in.Reply}, m, number)
}

// refuse reports err and sends what the requester may know of it to the subject reply. A
// worker calls it.
func (s *Subscription) refuse(m *RawMsg, reply string, err error) {
	public, ok := errors.AsType[*publicError](err)
	switch {
	case !ok:
		public = errInternal
		s.failed(m, err)
	case public.cause != nil:
		s.failed(m, public.cause)
	}
	text := public.Error()
	s.receiver.lastError.Store(&text)
	if reply == "" {
		return
	}
	out := outlet.Message{Out: wire.Out{Subject: reply}}
	out.SetHeader(wire.HeaderNatsServiceError, public.message)
	out.SetHeader(wire.HeaderNatsServiceErrorCode, public.code)
	if err := s.bus.core.Outlet.Reply(context.Background(), &out); err != nil {
		s.failed(m, err)
	}
}

// publicError is an error whose code and message the requester receives.
type publicError struct {
	code, message string
	cause         error // for the log of the responder only; may be nil
}

func (e *publicError) Error() string { return fmt.Sprintf("%s (%s)", e.message, e.code) }
func (e *publicError) Unwrap() error { return e.cause }

// errInternal is what the requester receives for any other error.
var errInternal = &publicError{code: defaultCode, message: "internal error"}

// defaultCode is the code of a public error without a code. Without one the requester would
// take the reply for a good one.
const defaultCode = "500"

func init() {
	access.IsPublic = func(err error) bool {
		_, ok := errors.AsType[*publicError](err)
		return ok
	}
}

// Public returns an error for a responder to return. The requester receives its code and
// message as a *RemoteError. code is a short word or a number such as "404"; an empty one
// becomes "500". Both are one line of text of at most 2 KiB: line breaks become blanks,
// blanks at the ends are removed, and longer text is cut.
func Public(code, message string) error {
	e := &publicError{code: publicText(code), message: publicText(message)}
	if e.code == "" {
		e.code = defaultCode
	}
	return e
}

// maxPublicText is the most bytes of the code and of the message of a public error. The
// reply must always be small enough.
const maxPublicText = 2048

// publicText makes one line of s that is not too long.
func publicText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\r' || r == '\n' {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxPublicText {
		s = strings.ToValidUTF8(s[:maxPublicText], "") // no half characters
	}
	return strings.TrimSpace(s)
}

// badRequest makes a public error of the error of a request that could not be read. The
// requester does not receive the text, which may quote what Validate knows, unless
// Validate returned a public error.
func badRequest(err error) error {
	if _, ok := errors.AsType[*publicError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*ValidationError](err); ok {
		return &publicError{code: "400", message: "invalid request", cause: err}
	}
	if errors.Is(err, payload.ErrUnknown) {
		return &publicError{code: "415", message: "unknown content type or encoding", cause: err}
	}
	return &publicError{code: "400", message: "malformed request", cause: err}
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
