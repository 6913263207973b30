package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/discovery"
	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/plural"
	"github.com/omnibus-go/bus/internal/wire"
	"github.com/omnibus-go/bus/stats"
)

// Subscription is an active Subscribe or Respond. Safe for concurrent use.
type Subscription struct {
	bus      *Bus
	receiver *handlerCall
	core     *intake.Core
	stage    lifecycle.Stage
	endpoint *discovery.Endpoint // of a responder

	pendingMsgs, pendingBytes int // limits

	stopOnce *lifecycle.StopOnce
	drops    dropReports
}

// Subscribe calls h for the messages that are published to s, which may have wildcards. When
// it returns, the subscription is active. Messages are handled one at a time, in the order
// in which each publisher sent them, unless Concurrency says otherwise. They are delivered at
// most once: if h fails, that is reported (WithEvents) and the message is not repeated.
//
// Errors: *SubjectError; *OptionError for a nil handler or bus, a wrong option, or a middleware
// that returns no handler; ErrClosed; ErrTimeout if the server does not confirm in time.
func Subscribe[T any](b *Bus, s Subject[T], h Handler[T], opts ...SubscribeOption) (*Subscription, error) {
	if h == nil {
		return nil, badArgument("Subscribe", "handler", "is nil")
	}
	return b.subscribe(string(s), typed(h), opts)
}

// Subscribe calls the handlers of m for the messages that pattern matches, in order. The
// errors are those of the function Subscribe.
func (b *Bus) Subscribe(pattern string, m *Mux, opts ...SubscribeOption) (*Subscription, error) {
	if err := checkPattern(pattern); err != nil {
		return nil, err
	}
	r, err := m.routing("Subscribe")
	if r != nil {
		err = errors.Join(err, r.within(pattern))
	}
	if err != nil {
		return nil, err
	}
	return b.subscribe(pattern, r.shareOut, opts)
}

func (b *Bus) subscribe(pattern string, mk maker, opts []SubscribeOption) (*Subscription, error) {
	if err := b.usable("Subscribe"); err != nil {
		return nil, err
	}
	o := newHandlerOptions()
	_ = applyAll(opts, o, SubscribeOption.onSubscribe) // what is wrong is returned with the rest
	addPattern(o, pattern)
	if err := o.joined(); err != nil {
		return nil, err
	}
	s := &Subscription{bus: b, stage: lifecycle.StageSubscribers}
	if err := s.open(pattern, o, mk, s.handle); err != nil {
		return nil, err
	}
	return s, nil
}

// open subscribes and registers s. handle is called for each message, by a worker.
func (s *Subscription) open(pattern string, o *handlerOptions, mk maker, handle func(in wire.In, number int64)) error {
	var err error
	if s.receiver, err = s.bus.newHandlerCall(pattern, o, mk); err != nil {
		return err
	}
	s.pendingMsgs, s.pendingBytes = o.pending.msgs, o.pending.bytes
	s.stopOnce = lifecycle.NewStopOnce()
	s.receiver.always = s.stage == lifecycle.StageResponders
	s.core = intake.NewCore(s.bus.core.Link, intake.CoreConfig{
		Subject:      pattern,
		Group:        o.group.name,
		Concurrency:  o.concurrency,
		PendingMsgs:  o.pending.msgs,
		PendingBytes: o.pending.bytes,
		Timeout:      s.bus.core.Timeout,
		Run:          handle,
		Failed:       s.troubled,
		Lost:         s.goroutineLost,
	})
	if err := s.core.Open(); err != nil {
		return s.bus.opError(s.call(), pattern, err)
	}
	if err := s.bus.registry.Add(s.stage, s, s.core); err != nil {
		return errors.Join(s.bus.opError(s.call(), pattern, err), s.Unsubscribe())
	}
	return nil
}

// handle handles one message. A worker calls it.
func (s *Subscription) handle(in wire.In, number int64) {
	m := newRaw(&in, nil)
	err := errExited
	defer func() {
		if err != nil {
			s.failed(m, err)
		}
	}()
	err = s.receiver.call(m, number)
}

// goroutineLost ends s after its handler ended the only goroutine on which messages come. That
// goroutine belongs to nats.go, which does not replace it. It is called on that goroutine.
func (s *Subscription) goroutineLost() {
	s.bus.report(event.Event{Kind: event.SubscriptionEnded, Subject: s.Subject(), Err: s.Err()})
	_ = s.Unsubscribe()
}

// call is the function that made s.
func (s *Subscription) call() string {
	if s.stage == lifecycle.StageResponders {
		return "Respond"
	}
	return "Subscribe"
}

// failed reports a message whose handler failed.
func (s *Subscription) failed(m *RawMsg, err error) {
	kind := event.HandlerFailed
	if errors.Is(err, errUnrouted) {
		kind = event.Unrouted
		s.bus.core.Counters.Unrouted.Add(1)
	}
	s.bus.report(event.Event{Kind: kind, Subject: m.Subject, Err: err})
}

// troubled reports an error of the connection about s.
func (s *Subscription) troubled(err error) {
	if !errors.Is(err, nats.ErrSlowConsumer) {
		s.bus.report(event.Event{Kind: event.ServerError, Subject: s.Subject(), Err: err})
		return
	}
	s.reportDropped(false)
}

// dropReportInterval is the least time between two reports of dropped messages.
const dropReportInterval = time.Minute

// dropReports is what was reported about the messages that a subscription drops.
type dropReports struct {
	mu       sync.Mutex
	counted  int64       // dropped messages that the metrics know
	reported int64       // dropped messages in the last report
	last     time.Time   // when that was
	timer    *time.Timer // for what is not reported yet; nil until the first message is dropped
	ended    bool        // the subscription has ended: no report follows
}

// reportDropped counts the messages that s has dropped, and reports them if there are new
// ones: the first at once, then once a minute, and the rest at the end. nats.go calls it
// when a message is dropped after one that was not. The timer calls it for the others, and
// the end of s with final. The report runs without the lock, because the user's function
// may end s.
func (s *Subscription) reportDropped(final bool) {
	d := &s.drops
	d.mu.Lock()
	dropped := int64(s.core.Dropped())
	if dropped > d.counted {
		s.bus.core.Telemetry.Dropped(s.receiver.pattern, s.receiver.group, dropped-d.counted)
		d.counted = dropped
	}
	due := dropped > d.reported && !d.ended && (final || time.Since(d.last) >= dropReportInterval)
	if due {
		d.reported, d.last = dropped, time.Now()
	}
	d.ended = d.ended || final
	switch {
	case d.timer == nil && !d.ended:
		d.timer = time.AfterFunc(dropReportInterval, func() { s.reportDropped(false) })
	case d.timer != nil && d.ended:
		d.timer.Stop()
	case d.timer != nil:
		d.timer.Reset(dropReportInterval)
	}
	d.mu.Unlock()
	if due {
		err := fmt.Errorf("bus: subscription to %q is too slow: %s dropped so far; make its handler faster, add Concurrency, or raise PendingLimits", s.Subject(), plural.Of(dropped, "message", "messages"))
		s.bus.report(event.Event{Kind: event.SlowConsumer, Subject: s.Subject(), Dropped: int(dropped), Err: err})
	}
}

// Subject returns the subject or pattern of the subscription.
func (s *Subscription) Subject() string {
	if s.isZero() {
		return ""
	}
	return s.receiver.pattern
}

// isZero reports whether s is nil or the zero Subscription, as Subscribe and Respond return
// with an error. Such a subscription has ended.
func (s *Subscription) isZero() bool { return s == nil || s.core == nil }

// Drain tells the server to send nothing more, handles every message that has arrived, waits
// for the handlers and ends the subscription. If ctx ends first, the subscription ends at once
// and the error is a *DrainError. Without a deadline in ctx the drain timeout of the bus
// applies.
//
// If a handler of the subscription calls Drain, it does not wait for that handler, nor for
// messages that only that handler could handle. Further calls wait for the first one, except
// calls of its handlers.
func (s *Subscription) Drain(ctx context.Context) error {
	if s.isZero() {
		return nil
	}
	if ctx == nil {
		return noContext("Drain")
	}
	ctx, cancel := s.bus.core.WithDrainTimeout(dispatch.FromCaller(ctx))
	defer cancel()
	return s.drain(ctx)
}

// Unsubscribe tells the server to send nothing more, drops the messages that wait, and waits
// for the running handlers as Drain does.
func (s *Subscription) Unsubscribe() error {
	if s.isZero() {
		return nil
	}
	ctx, cancel := s.bus.core.WithDrainTimeout(dispatch.FromCaller(context.Background()))
	defer cancel()
	return s.finish(ctx, func() error { return s.core.Close(ctx) })
}

// Stop tells the server to send nothing more and drops the messages that wait. It does not wait
// for running handlers. If a Drain is running, Stop does nothing.
func (s *Subscription) Stop() {
	if s.isZero() {
		return
	}
	ctx, cancel := context.WithCancelCause(dispatch.FromCaller(context.Background()))
	cancel(errStopped)
	_ = s.finish(ctx, func() error { return s.core.Close(ctx) })
}

// Err returns why no messages come although nobody ended the subscription. It matches ErrClosed
// if the connection has ended for good, and ErrExited if a handler ended the goroutine of the
// subscription (event.SubscriptionEnded). Otherwise it is nil.
func (s *Subscription) Err() error {
	if s.isZero() {
		return nil
	}
	if s.core.IsLost() {
		return s.bus.opError(s.call(), s.Subject(), ErrExited)
	}
	select {
	case <-s.Done():
		return nil
	case <-s.bus.core.Stopping:
		return nil
	default:
	}
	if s.bus.core.Link.Conn().IsClosed() {
		return s.bus.opError(s.call(), s.Subject(), nats.ErrConnectionClosed)
	}
	return nil
}

// Done returns a channel that is closed when the subscription has ended: by Drain, Stop,
// Unsubscribe, the end of the bus, or a handler (see Err).
func (s *Subscription) Done() <-chan struct{} {
	if s.isZero() {
		return closedChan
	}
	return s.core.Done()
}

func (s *Subscription) drain(ctx context.Context) error {
	return s.finish(ctx, func() error { return s.core.Drain(ctx) })
}

// finish ends the subscription once, by calling how.
func (s *Subscription) finish(ctx context.Context, how func() error) error {
	return s.stopOnce.Do(ctx, func() (err error) {
		if why := how(); why != nil && !errors.Is(why, errStopped) {
			err = s.unfinished(why)
		}
		s.reportDropped(true)
		s.bus.services.Remove(s.endpoint)
		s.bus.retired.retire(s)
		return err
	}, s.runsCaller, s.unfinished)
}

func (s *Subscription) unfinished(why error) error {
	e := &DrainError{Subject: s.Subject(), Running: s.core.InFlight(), Err: why}
	e.Pending, _ = s.core.Pending()
	return e.whenGivenUp()
}

// runsCaller reports whether the caller that ctx notes is one of s's handlers.
func (s *Subscription) runsCaller(ctx context.Context) bool { return s.core.RunsCaller(ctx) }

func (s *Subscription) stats() stats.Subscription {
	msgs, bytes := s.core.Pending()
	st := s.receiver.stats(s.core)
	st.Pending, st.PendingBytes, st.Dropped, st.InFlight = msgs, bytes, int64(s.core.Dropped()), s.core.InFlight()
	return st
}

// load returns the statistics and how much of the pending limits is in use.
func (s *Subscription) load() load {
	l := s.receiver.load(s.stats())
	l.used = max(ratio(l.stats.Pending, s.pendingMsgs), ratio(l.stats.PendingBytes, s.pendingBytes))
	return l
}

// errStopped is why Stop of a subscription does not wait.
var errStopped = errors.New("it was stopped")
