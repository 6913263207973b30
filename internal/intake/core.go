package intake

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// CoreConfig describes a core subscription.
type CoreConfig struct {
	Subject      string
	Group        string // queue group, or empty
	Concurrency  int
	PendingMsgs  int // messages that may wait; more are dropped and reported. Negative means no limit
	PendingBytes int // their bytes, likewise
	Timeout      time.Duration
	Run          func(in wire.In, number int64) // number counts the messages that were run, from 1
	Failed       func(err error)                // a slow consumer
	Lost         func()                         // the handler has ended the goroutine on which messages come: there will be none; nil where it cannot
}

// Core is one core subscription. Messages wait in nats.go's list, where the
// pending limits hold; the queue runs them.
//
// States: open ⇄ quiesced → draining → ended → closed. It is closed when its handlers have
// returned or nobody waits for them any more. Drain does all steps, Close leaves draining
// out.
// The handlers run on the goroutine that nats.go owns for the subscription, or on
// the queue's workers when more than one may run at once.
type Core struct {
	cfg     CoreConfig
	link    *link.Link
	queue   *dispatch.Queue
	sub     *nats.Subscription
	unwatch func()

	dropped atomic.Int64  // the last count, for when the subscription has ended
	left    atomic.Int64  // messages that waited when it ended
	lost    chan struct{} // closed when nats.go's goroutine has been ended
	done    chan struct{}
}

// errOnlyCaller is why a drain ends when only the handler that waits for it could
// handle the rest.
var errOnlyCaller = errors.New("it was ended from its own handler, and no other goroutine could handle them")

// errLostList is why a drain ends when the connection was closed under it, with
// what nats.go had for the subscription.
var errLostList = errors.New("the connection was closed meanwhile")

// errLostGoroutine is why a drain ends when the handler has ended the goroutine that
// would hand it the rest.
var errLostGoroutine = errors.New("its handler has ended the goroutine that receives the messages")

// NewCore returns a subscription that Open will make.
func NewCore(l *link.Link, c CoreConfig) *Core {
	queue := dispatch.New(c.Concurrency, func(d wire.Delivery) { c.Run(d.In, d.Number) })
	return &Core{cfg: c, link: l, queue: queue, lost: make(chan struct{}), done: make(chan struct{})}
}

// Open subscribes. When it returns nil the server knows of the subscription;
// messages may come before. A server that refuses it is a *link.RefusedError.
// After an error there is nothing to close.
func (s *Core) Open() error {
	opening := s.link.WatchSubscription(s.cfg.Subject, s.cfg.Group)
	defer opening.End()
	take := s.run
	if s.cfg.Concurrency > 1 {
		take = s.enqueue
	}
	sub, err := s.link.Conn().QueueSubscribe(s.cfg.Subject, s.cfg.Group, take)
	if err != nil {
		return err
	}
	s.sub = sub
	s.unwatch = s.link.Watch(sub, s.cfg.Failed)
	err = setPendingLimits(sub, s.cfg.PendingMsgs, s.cfg.PendingBytes)
	if err == nil {
		err = s.link.Flush(context.Background(), s.cfg.Timeout)
	}
	if err == nil {
		err = opening.Refusal()
	}
	if err != nil {
		s.end()
		close(s.done)
	}
	return err
}

// setPendingLimits sets the limits of a new subscription. Only the end of the connection can
// have ended it: nats.go calls it invalid then.
func setPendingLimits(sub *nats.Subscription, msgs, bytes int) error {
	err := sub.SetPendingLimits(msgs, bytes)
	if errors.Is(err, nats.ErrBadSubscription) {
		return nats.ErrConnectionClosed
	}
	return err
}

// run is nats.go's callback where messages run on its goroutine.
func (s *Core) run(m *nats.Msg) {
	number, ok := s.queue.Enter()
	if !ok {
		return
	}
	returned := false
	defer func() {
		s.queue.Leave()
		if !returned {
			s.exited()
		}
	}()
	s.cfg.Run(in(m), number)
	returned = true
}

// enqueue is nats.go's callback where they run on others.
func (s *Core) enqueue(m *nats.Msg) { s.queue.Do(wire.Delivery{In: in(m)}) }

func in(m *nats.Msg) wire.In {
	return wire.In{Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data}
}

// exited is called when a handler has ended the goroutine it ran on, which is nats.go's
// and not replaced.
func (s *Core) exited() {
	close(s.lost)
	if s.cfg.Lost != nil {
		s.cfg.Lost()
	}
}

// Pending is the number of messages that have arrived and wait, and about their
// bytes; when the subscription has ended, the number that then waited.
func (s *Core) Pending() (msgs, bytes int) {
	msgs, bytes, err := s.sub.Pending()
	if err != nil {
		return int(s.left.Load()), 0
	}
	if s.queue.Concurrency() == 1 {
		running := s.queue.InFlight()
		if s.IsLost() {
			running = 1
		}
		msgs = max(msgs-running, 0) // nats.go counts the one that runs, or was the last to
	}
	waiting, waitingBytes := s.queue.Backlog()
	return msgs + waiting, bytes + waitingBytes
}

// snapshot is Pending and InFlight of one moment in which nats.go's goroutine is not
// between two messages. There it has no handler running, and still counts as waiting
// what its handler has returned from. That moment is short, and waited for.
func (s *Core) snapshot() (pending, running int) {
	for look := range 1100 {
		begun, ended := s.Begun(), s.Ended()
		pending, _ = s.Pending()
		running = s.InFlight()
		same := begun == s.Begun() && ended == s.Ended()
		if same && (pending == 0 || running > 0 || s.queue.Concurrency() > 1 || s.IsLost() || s.queue.IsQuiesced() || !s.sub.IsValid()) {
			break
		}
		if look < 1000 {
			runtime.Gosched()
		} else {
			time.Sleep(time.Millisecond) // others keep its goroutine from running
		}
	}
	return pending, running
}

// IsLost reports whether the handler has ended the goroutine on which messages come.
func (s *Core) IsLost() bool {
	select {
	case <-s.lost:
		return true
	default:
		return false
	}
}

// Dropped is the number of messages dropped at the pending limits.
func (s *Core) Dropped() int {
	n, err := s.sub.Dropped()
	if err != nil {
		return int(s.dropped.Load())
	}
	s.dropped.Store(int64(n))
	return n
}

// Begun is the number of handler calls so far.
func (s *Core) Begun() int64 { return s.queue.Begun() }

// Ended is Begun for those that have returned.
func (s *Core) Ended() int64 { return s.queue.Ended() }

// InFlight is the number of handlers that run.
func (s *Core) InFlight() int { return s.queue.InFlight() }

// Done is closed when the subscription is closed.
func (s *Core) Done() <-chan struct{} { return s.done }

// RunsCaller reports whether the caller that ctx names is one of the handlers.
func (s *Core) RunsCaller(ctx context.Context) bool { return s.queue.RunsCaller(ctx) }

// Drain ends the interest, runs everything that has arrived, waits for the
// handlers and closes. When ctx ends first it closes at once and returns a
// *LeftBehind. It and Close may be called once in all.
func (s *Core) Drain(ctx context.Context) error {
	s.queue.Resume()
	err := s.leftBehind(s.drain(ctx))
	s.end()
	close(s.done)
	return err
}

// leftBehind adds to err, why the drain did not wait longer, what is there at this
// moment. It returns nil where nothing is: the last handler may return just then.
func (s *Core) leftBehind(err error) error {
	if err == nil {
		return nil
	}
	pending, running := s.snapshot()
	if pending+running == 0 {
		return nil
	}
	return &LeftBehind{Pending: pending, Running: running, Err: err}
}

// Close drops what waits, waits for the handlers until ctx ends, and closes.
func (s *Core) Close(ctx context.Context) error {
	s.end()
	defer close(s.done)
	return s.leftBehind(s.queue.Wait(ctx))
}

// end takes no more messages and begins none.
func (s *Core) end() {
	s.Dropped() // keep the last count
	left, _ := s.snapshot()
	s.left.Store(int64(left))
	_ = s.sub.Unsubscribe()
	s.unwatch()
	s.queue.Stop()
}

// drain does the work of Drain. It waits for the handlers without a lock.
func (s *Core) drain(ctx context.Context) error {
	begun := s.queue.Begun()
	waiting, _ := s.Pending()
	// Where the server cannot be reached, what has arrived is handled all the same.
	_ = s.link.EndInterest(ctx, s.sub, s.cfg.Timeout)
	own := 0
	if s.queue.Concurrency() == 1 && s.queue.RunsCaller(ctx) {
		own = 1 // the handler that closes us sits on the list's goroutine
	}
	err := emptied(ctx, s.sub, own, s.lost)
	if pending, _ := s.Pending(); errors.Is(err, errLostGoroutine) && pending == 0 {
		return nil // it was the last one
	}
	if err != nil {
		return err
	}
	if err := s.queue.Wait(ctx); err != nil {
		return err
	}
	if lost := int64(waiting) - (s.queue.Begun() - begun); lost > 0 && !s.sub.IsValid() {
		s.left.Store(lost)
		return errLostList
	}
	return nil
}
