package link

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/permissions"
)

const (
	// maxProven is how many subjects a connection proves: the first message to each is
	// followed by a flush, so that its call returns a refusal.
	maxProven = 64
	// maxDenied bounds the refused subjects that are remembered.
	maxDenied = 1024
	// denialInterval is the least time between two reports of refused messages to a subject.
	denialInterval = time.Minute
	// maxProof bounds how long a message waits for the answer to its flush. Without an answer
	// it counts as sent, as without the flush.
	maxProof = time.Second
)

// denials is what a link knows of missing permissions to publish, and who waits for the
// answer to a message. The server says that it refuses a message only by its subject, and
// nats.go reports that to the whole connection. All of it ends with the connection: the next
// one may have other permissions.
type denials struct {
	trusted atomic.Bool // nothing is refused, so there is nothing to do
	proven  atomic.Pointer[map[string]struct{}]
	denied  atomic.Bool // told is not empty

	mu      sync.Mutex
	told    map[string]denial // by subject: refused messages
	subs    map[string]error  // by subject: refused subscriptions that no call waits for
	inbox   error             // why no replies come; nil if they do
	replies bool              // the server has accepted a subscription to replies
	pending map[*pendingCall]struct{}
	watches map[int]denialWatch
	next    int
}

// denial is that messages to a subject are refused.
type denial struct {
	reported time.Time // when that was last reported
	latest   time.Time
	err      *RefusedError
}

// pendingCall is a call that waits for the reply to its message.
type pendingCall struct {
	subject string // of the message, or its beginning up to a dot
	end     context.CancelCauseFunc
}

// denialWatch is told of refused messages to the subjects that begin with tokens.
type denialWatch struct {
	tokens string
	fn     func(*RefusedError) (taken bool)
}

// concerns reports whether p is about a message to subject.
func (p *pendingCall) concerns(subject string) bool { return beginsWith(subject, p.subject) }

// beginsWith reports whether the first tokens of subject are tokens. Without tokens they are.
func beginsWith(subject, tokens string) bool {
	rest, ok := strings.CutPrefix(subject, tokens)
	return ok && (tokens == "" || rest == "" || rest[0] == '.')
}

// WhileAllowed returns what call returns, which sends one message to subject and waits for the
// reply until its context ends. subject may lack its last tokens. If the server refuses the
// message, the error is a *RefusedError at once. If it refuses the subscription to the
// replies, it is a *RefusedError with Inbox: nothing is sent when that is known.
func WhileAllowed[T any](ctx context.Context, l *Link, subject string, call func(context.Context) (T, error)) (T, error) {
	if l.denials.trusted.Load() {
		return call(ctx)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	p := &pendingCall{subject: subject, end: end}
	if refused := l.denials.add(p); refused != nil {
		var none T
		return none, refused
	}
	defer l.denials.remove(p)
	v, err := call(ctx)
	if err != nil {
		err = l.refusedOr(ctx, p, err)
	} else if l.denials.denied.Load() {
		l.denials.allow(subject)
	}
	return v, err
}

// refusedOr returns the refusal of p if that is why its call failed with err, or err. nats.go
// may report it too late, because a function that it reports to takes long. Then the last
// error of the connection may say it.
func (l *Link) refusedOr(ctx context.Context, p *pendingCall, err error) error {
	if refused, ok := errors.AsType[*RefusedError](context.Cause(ctx)); ok {
		return refused
	}
	if last := l.nc.LastError(); last != nil && errors.Is(err, context.DeadlineExceeded) {
		if subject := refusedMessage(last); subject != "" && p.concerns(subject) {
			return &RefusedError{Subject: subject, Publish: true, Err: last}
		}
	}
	return err
}

// add registers p, or returns why its reply cannot come.
func (d *denials) add(p *pendingCall) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inbox != nil {
		return d.inbox
	}
	if d.pending == nil {
		d.pending = make(map[*pendingCall]struct{})
	}
	d.pending[p] = struct{}{}
	return nil
}

func (d *denials) remove(p *pendingCall) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.pending, p)
}

// OnDenied has fn called with each refusal of a message to a subject that begins with tokens,
// and of the connection's inbox, on a goroutine of the connection. fn must not block. It
// reports whether somebody gets to know the refusal. The function that OnDenied returns ends
// that.
func (l *Link) OnDenied(tokens string, fn func(*RefusedError) (taken bool)) (stop func()) {
	d := &l.denials
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watches == nil {
		d.watches = make(map[int]denialWatch)
	}
	id := d.next
	d.next++
	d.watches[id] = denialWatch{tokens, fn}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watches, id)
	}
}

// refusal tells whom an error of the server concerns. nats.go calls it, by asyncError.
func (l *Link) refusal(c Config, err error) {
	subject := refusedMessage(err)
	if subject != "" {
		taken := l.refusals.deliver(err)
		taken = l.denials.deny(&RefusedError{Subject: subject, Publish: true, Err: err}) || taken
		if e := (&RefusedError{Subject: subject, Publish: true, Err: err}); l.denials.tell(e, taken) {
			c.Failed(subject, e)
		}
		return
	}
	if l.refusals.deliver(err) {
		return
	}
	subject = refusedSubject(err)
	if subject != "" && strings.HasPrefix(subject, l.inboxPrefix()) {
		l.denyInbox(err)
	} else if subject != "" {
		l.denials.lack(&RefusedError{Subject: subject, Err: err})
	}
	c.Failed(subject, err)
}

// denyInbox records that no replies come, because of err.
func (l *Link) denyInbox(err error) {
	l.denials.deny(&RefusedError{Subject: l.inboxPrefix() + ">", Inbox: true, Sent: true, Err: err})
}

// inboxPrefix is how all inboxes of the connection begin.
func (l *Link) inboxPrefix() string {
	if p := l.nc.Opts.InboxPrefix; p != "" {
		return p + "."
	}
	return nats.InboxPrefix
}

// deny ends the calls that wait for what e refuses, and tells the watches. It reports whether
// somebody gets to know e.
func (d *denials) deny(e *RefusedError) (taken bool) {
	d.mu.Lock()
	if e.Inbox {
		unsent := *e
		unsent.Sent = false
		d.inbox = &unsent
	}
	for p := range d.pending {
		if e.Inbox || p.concerns(e.Subject) {
			p.end(e)
			taken = true
		}
	}
	var fns []func(*RefusedError) bool
	for _, w := range d.watches {
		if e.Inbox || beginsWith(e.Subject, w.tokens) {
			fns = append(fns, w.fn)
		}
	}
	d.mu.Unlock()
	for _, fn := range fns {
		taken = fn(e) || taken
	}
	return taken
}

// tell records e, about messages. It reports whether that has to be reported: not if a call
// returns it (taken), nor if somebody was told a moment ago.
func (d *denials) tell(e *RefusedError, taken bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	before := d.told[e.Subject].reported
	due := !taken && now.Sub(before) >= denialInterval
	if len(d.told) >= maxDenied {
		clear(d.told)
	}
	if d.told == nil {
		d.told = make(map[string]denial)
	}
	if due || taken {
		before = now
	}
	d.told[e.Subject] = denial{reported: before, latest: now, err: e}
	d.denied.Store(true)
	d.unproveLocked(e.Subject)
	return due
}

// unproveLocked forgets that messages to subject were not refused.
func (d *denials) unproveLocked(subject string) {
	if have := d.proven.Load(); have != nil {
		less := maps.Clone(*have)
		delete(less, subject)
		d.proven.Store(&less)
	}
}

// prove records that a message to subject was not refused.
func (d *denials) prove(subject string) {
	d.allow(subject)
	d.mu.Lock()
	defer d.mu.Unlock()
	more := make(map[string]struct{})
	if have := d.proven.Load(); have != nil {
		more = maps.Clone(*have)
	}
	if len(more) < maxProven {
		more[strings.Clone(subject)] = struct{}{}
		d.proven.Store(&more)
	}
}

// reset forgets everything about the former connection.
func (d *denials) reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inbox, d.replies = nil, false
	clear(d.told)
	clear(d.subs)
	d.denied.Store(false)
	d.proven.Store(nil)
}

// MayRefuse reports whether the server may refuse messages to this connection.
func (l *Link) MayRefuse() bool { return !l.denials.trusted.Load() }

// Unproven reports whether a message to subject should be sent with Prove: its subject is one
// of the first of this connection, or was refused.
func (l *Link) Unproven(subject string) bool {
	d := &l.denials
	if d.trusted.Load() {
		return false
	}
	if have := d.proven.Load(); have != nil {
		if _, proven := (*have)[subject]; proven {
			return false
		}
		if len(*have) >= maxProven {
			return d.denied.Load() && d.isDenied(subject)
		}
	}
	return l.nc.IsConnected()
}

func (d *denials) isDenied(subject string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, denied := d.told[subject]
	return denied
}

// Prove calls send, which sends messages to subjects, waits until the server has processed
// them, and returns a *RefusedError if it refused one. If the server does not answer in time
// the messages count as sent. On a trusted connection it only calls send.
func (l *Link) Prove(ctx context.Context, send func() error, subjects ...string) error {
	if l.denials.trusted.Load() {
		return send()
	}
	var watches []*RefusalWatch
	for _, subject := range subjects {
		w := l.WatchPublish(subject)
		defer w.End()
		watches = append(watches, w)
	}
	if err := send(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, maxProof)
	defer cancel()
	if l.Flush(ctx, maxProof) != nil {
		return nil
	}
	for _, w := range watches {
		if err := w.Refusal(); err != nil {
			return err
		}
		if hasAny(w.subject, permissions.JetStream, permissions.Root) { // a program publishes no such messages one by one
			l.denials.allow(w.subject)
		} else {
			l.denials.prove(w.subject)
		}
	}
	return nil
}
