// Package intake is the way in: it takes messages from core subscriptions and
// from streams, hands them to a dispatch.Queue, and settles them.
package intake

import (
	"context"
	"errors"
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
	Run          func(wire.Delivery)
	Failed       func(err error) // a slow consumer, a missing permission
}

// Core is one core subscription. Messages wait in nats.go's list, where the
// pending limits hold; the queue runs them.
//
// States: open → draining → closed. Drain does both steps; the handlers run on
// the goroutine that nats.go owns for the subscription, or on the queue's
// workers when more than one may run at once.
type Core struct {
	cfg     CoreConfig
	link    *link.Link
	queue   *dispatch.Queue
	sub     *nats.Subscription
	unwatch func()

	dropped atomic.Int64 // the last count, for when the subscription has ended
	left    atomic.Int64 // messages that waited when it ended
	done    chan struct{}
}

// ErrLeftBehind is the cause when a drain ends before every message that had
// arrived was handled.
var ErrLeftBehind = errors.New("messages that had arrived were not handled")

// NewCore returns a subscription that Open will make.
func NewCore(l *link.Link, c CoreConfig) *Core {
	return &Core{cfg: c, link: l, queue: dispatch.New(c.Concurrency, c.Run), done: make(chan struct{})}
}

// Open subscribes. When it returns nil the server knows of the subscription;
// messages may come before. After an error there is nothing to close.
func (s *Core) Open() error {
	sub, err := s.link.Conn().QueueSubscribe(s.cfg.Subject, s.cfg.Group, s.take)
	if err != nil {
		return err
	}
	s.sub = sub
	s.unwatch = s.link.Watch(sub, s.cfg.Failed)
	err = sub.SetPendingLimits(s.cfg.PendingMsgs, s.cfg.PendingBytes)
	if err == nil {
		err = s.link.Flush(context.Background(), s.cfg.Timeout)
	}
	if err != nil {
		s.close()
	}
	return err
}

// take is nats.go's callback.
func (s *Core) take(m *nats.Msg) {
	s.queue.Do(wire.Delivery{Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data})
}

// Pending is the number of messages that have arrived and wait, and about their
// bytes; when the subscription has ended, the number that then waited.
func (s *Core) Pending() (msgs, bytes int) {
	msgs, bytes, err := s.sub.Pending()
	if err != nil {
		return int(s.left.Load()), 0
	}
	if s.queue.Concurrency() == 1 {
		msgs = max(msgs-s.queue.InFlight(), 0) // nats.go counts the one that runs
	}
	waiting, waitingBytes := s.queue.Backlog()
	return msgs + waiting, bytes + waitingBytes
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

// Done is closed when the subscription has ended.
func (s *Core) Done() <-chan struct{} { return s.done }

// RunsCaller reports whether the caller that ctx notes is one of the handlers.
func (s *Core) RunsCaller(ctx context.Context) bool { return s.queue.RunsCaller(ctx) }

// Drain ends the interest, runs everything that has arrived, waits for the
// handlers and closes. When ctx ends first it closes at once and returns an
// error that wraps ErrLeftBehind. It and Close may be called once in all.
func (s *Core) Drain(ctx context.Context) error {
	err := s.drain(ctx)
	s.close()
	return err
}

// Close drops what waits, waits for the handlers until ctx ends, and closes.
func (s *Core) Close(ctx context.Context) error {
	s.close()
	return s.queue.Wait(ctx)
}

func (s *Core) close() {
	s.Dropped() // keep the last count
	left, _ := s.Pending()
	s.left.Store(int64(left))
	_ = s.sub.Unsubscribe()
	s.unwatch()
	s.queue.Stop()
	close(s.done)
}

func (s *Core) drain(ctx context.Context) error {
	// Where the server cannot be told, what has arrived is handled all the same.
	_ = s.link.EndInterest(ctx, s.sub, s.cfg.Timeout)
	own := 0
	if s.queue.Concurrency() == 1 && s.queue.RunsCaller(ctx) {
		own = 1 // the handler that closes us sits on the list's goroutine
	}
	if err := emptied(ctx, s.sub, own); err != nil {
		return err
	}
	return s.queue.Wait(ctx)
}
