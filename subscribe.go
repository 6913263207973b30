package bus

import (
	"context"
	"errors"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/wire"
)

// Subscription is a live Subscribe or Respond. Safe for concurrent use.
type Subscription struct {
	bus      *Bus
	receiver *receiver
	core     *intake.Core
	stage    int

	pendingMsgs, pendingBytes int // limits

	end   sync.Once
	ended chan struct{} // closed when end has been done
	err   error         // valid then

	counting sync.Mutex // of dropped messages
}

// Subscribe has h handle the messages published to s, which may have wildcards.
// When it returns the subscription is active. Messages are handled one at a time
// in the order in which each publisher sent them, unless Concurrency says
// otherwise. They are delivered at most once: one whose handler fails is
// reported (WithEvents) and not repeated.
//
// Errors: *SubjectError, *OptionError, *ArgumentError for a nil handler or bus,
// ErrClosed, ErrTimeout when the server does not confirm.
func Subscribe[T any](b *Bus, s Subject[T], h Handler[T], opts ...SubscribeOption) (*Subscription, error) {
	if h == nil {
		return nil, &ArgumentError{Func: "Subscribe", Arg: "handler", Reason: "is nil"}
	}
	return b.subscribe(string(s), typed(h), opts)
}

// Subscribe shares the messages that match pattern out to the handlers of m, in
// order. Its errors are those of the function Subscribe.
func (b *Bus) Subscribe(pattern string, m *Mux, opts ...SubscribeOption) (*Subscription, error) {
	mk, err := m.maker(pattern)
	if err != nil {
		return nil, err
	}
	return b.subscribe(pattern, mk, opts)
}

func (b *Bus) subscribe(pattern string, mk maker, opts []SubscribeOption) (*Subscription, error) {
	if err := b.usable("Subscribe"); err != nil {
		return nil, err
	}
	o := newHandleOptions()
	for _, opt := range opts {
		opt.onSubscribe(o)
	}
	s := &Subscription{bus: b, stage: stageSubscribers}
	err := s.open(pattern, o, mk, func(m *RawMsg, n int64) {
		if _, err := s.receiver.call(m, n); err != nil {
			s.failed(m, err)
		}
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// open subscribes and registers. run handles one message, the n-th.
func (s *Subscription) open(pattern string, o *handleOptions, mk maker, run func(m *RawMsg, n int64)) error {
	if o.err != nil {
		return o.err
	}
	if err := checkPattern(pattern); err != nil {
		return err
	}
	s.receiver = s.bus.newReceiver(pattern, o, mk)
	s.pendingMsgs, s.pendingBytes = o.pendingMsgs, o.pendingBytes
	s.ended = make(chan struct{})
	s.receiver.always = s.stage == stageResponders
	s.core = intake.NewCore(s.bus.link, intake.CoreConfig{
		Subject:      pattern,
		Group:        o.group,
		Concurrency:  o.concurrency,
		PendingMsgs:  o.pendingMsgs,
		PendingBytes: o.pendingBytes,
		Timeout:      s.bus.cfg.timeout,
		Run:          func(d wire.Delivery) { run(newRaw(&d), d.Number) },
		Failed:       s.troubled,
	})
	if err := s.core.Open(); err != nil {
		return translate(err)
	}
	if err := s.bus.registry.Add(s.stage, s); err != nil {
		return errors.Join(translate(err), s.Unsubscribe())
	}
	return nil
}

// failed reports a message whose handler failed.
func (s *Subscription) failed(m *RawMsg, err error) {
	kind := EventHandlerFailed
	if errors.Is(err, errUnrouted) {
		kind = EventUnrouted
		s.bus.counters.Unrouted.Add(1)
	}
	s.bus.report(Event{Kind: kind, Subject: m.Subject, Err: err})
}

// troubled reports what the connection says of the subscription.
func (s *Subscription) troubled(err error) {
	if !errors.Is(err, nats.ErrSlowConsumer) {
		s.bus.report(Event{Kind: EventServerError, Subject: s.Subject(), Err: err})
		return
	}
	dropped := s.countDropped()
	s.bus.report(Event{Kind: EventSlowConsumer, Subject: s.Subject(), Err: &SlowConsumerError{Subject: s.Subject(), Dropped: dropped}})
}

// countDropped tells the metrics how many messages were dropped since it last
// did, and returns how many in all.
func (s *Subscription) countDropped() int {
	s.counting.Lock()
	defer s.counting.Unlock()
	total := s.core.Dropped()
	if since := int64(total) - s.receiver.counters.Dropped.Swap(int64(total)); since > 0 {
		s.bus.tel.Dropped(s.receiver.pattern, s.receiver.group, since)
	}
	return total
}

// Subject is the pattern subscribed to.
func (s *Subscription) Subject() string { return s.receiver.pattern }

// Drain ends the interest, handles every message that has arrived, waits for the
// handlers and ends the subscription. When ctx ends first (the bus's drain
// timeout, if it has no deadline) it ends at once and returns a *DrainError.
// Called from one of its own handlers it does not wait for that one, nor for the
// messages only that one could handle. Further calls wait for the first one, unless
// they come from its handlers.
func (s *Subscription) Drain(ctx context.Context) error {
	if ctx == nil {
		return noContext("Drain")
	}
	ctx, cancel := s.bus.cfg.withDrainTimeout(dispatch.FromCaller(ctx))
	defer cancel()
	return s.drain(ctx)
}

// Unsubscribe ends the interest, drops the messages that wait, and waits for the
// handlers that run as Drain does.
func (s *Subscription) Unsubscribe() error {
	ctx, cancel := s.bus.cfg.withDrainTimeout(dispatch.FromCaller(context.Background()))
	defer cancel()
	return s.finish(ctx, func() error { return s.core.Close(ctx) })
}

// Done returns a channel that is closed when the subscription has ended, by
// Drain, Unsubscribe or the end of the bus.
func (s *Subscription) Done() <-chan struct{} { return s.core.Done() }

func (s *Subscription) drain(ctx context.Context) error {
	return s.finish(ctx, func() error { return s.core.Drain(ctx) })
}

// finish ends the subscription once by how. Who comes later waits for that; but
// not a handler, for which the first one waits.
func (s *Subscription) finish(ctx context.Context, how func() error) error {
	first := false
	s.end.Do(func() { first = true })
	if !first {
		return s.awaitEnd(ctx)
	}
	if err := how(); err != nil {
		s.err = s.unfinished(err)
	}
	s.countDropped()
	s.bus.services.remove(s)
	s.bus.retire(s)
	close(s.ended)
	return s.err
}

func (s *Subscription) awaitEnd(ctx context.Context) error {
	if s.runsCaller(ctx) {
		return nil
	}
	select {
	case <-s.ended:
		return s.err
	case <-ctx.Done():
		return s.unfinished(context.Cause(ctx))
	}
}

func (s *Subscription) unfinished(why error) error {
	msgs, _ := s.core.Pending()
	return &DrainError{Subject: s.Subject(), Pending: msgs, Running: s.core.InFlight(), Err: why}
}

// runsCaller reports whether the caller that ctx notes is one of s's handlers.
func (s *Subscription) runsCaller(ctx context.Context) bool { return s.core.RunsCaller(ctx) }

func (s *Subscription) stats() SubscriptionStats {
	msgs, bytes := s.core.Pending()
	st := s.receiver.stats(s.core)
	st.Pending, st.PendingBytes, st.Dropped, st.InFlight = msgs, bytes, int64(s.core.Dropped()), s.core.InFlight()
	return st
}

// load returns the statistics and how much of the pending limits is in use.
func (s *Subscription) load() (SubscriptionStats, float64) {
	st := s.stats()
	return st, max(ratio(st.Pending, s.pendingMsgs), ratio(st.PendingBytes, s.pendingBytes))
}

// ratio is used/limit, or 0 when there is no limit.
func ratio(used, limit int) float64 {
	if limit <= 0 {
		return 0
	}
	return float64(used) / float64(limit)
}
