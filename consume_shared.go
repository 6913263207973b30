package bus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/ownership"
	"github.com/omnibus-go/bus/internal/wire"
)

// taking is what a consumer takes messages by: an intake of its own, or its part in
// one that several processes share.
type taking interface {
	Start()
	Drain(ctx context.Context) error
	lifecycle.Quiescer
	Done() <-chan struct{}
	Err() error
	Stalled() error
	Pending() (msgs, bytes int)
	Begun() int64
	Ended() int64
	InFlight() int
	Longest() (dispatch.Run, bool)
	Lag() (messages int, oldest time.Time)
	RunsCaller(ctx context.Context) bool
}

// mostOut is how many messages of a durable with keys may be with handlers at once, in
// all processes together, unless its owner alone has more.
const mostOut = 256

// shares reports whether the order by key is kept together with other processes.
func (o *consumeOptions) shares(b *Bus) bool { return o.key.make != nil && !b.core.Alone }

// sharing is a consumer's part in a durable whose order by key several processes keep
// together. While this one is the owner it has an intake, a new one each time.
type sharing struct {
	*ownership.Member
	c    *Consumer
	o    *consumeOptions
	conf intake.DurableConfig
	done chan struct{}

	mu      sync.Mutex
	in      *intake.Durable // the latest; nil before there was one
	deleted bool            // the durable was deleted while this process had no intake
}

// share joins the processes that consume the durable.
func (c *Consumer) share(o *consumeOptions) (*sharing, error) {
	s := &sharing{c: c, o: o, conf: c.intake, done: make(chan struct{})}
	workers := s.conf.Concurrency
	s.conf.Concurrency, s.conf.DeferRetry = max(mostOut, workers), nil
	var err error
	s.Member, err = ownership.NewMember(ownership.Config{
		Link: c.bus.core.Link, Stream: c.stream, Durable: c.durable, ID: nuid.Next(),
		TTL: ownership.TTLOf(s.conf.AckWait), Workers: workers, RequestTimeout: c.bus.core.Timeout,
		Run:            c.run,
		Exited:         c.exited,
		Retrying:       c.retrying,
		Cause:          func(err error) string { return string(c.retry.causeOf(err)) },
		Open:           s.open,
		OutcomeRefused: c.outcomeRefused,
		Lost:           func(err error) { c.tell(event.OwnershipLost, c.superseded(err)) },
		Failed:         s.failed,
		DurableDeleted: func() bool { return errors.Is(s.Err(), intake.ErrConsumerDeleted) },
	})
	return s, err
}

func (c *Consumer) tell(kind event.Kind, err error) {
	c.bus.report(event.Event{Kind: kind, Stream: c.stream, Durable: c.durable, Err: err})
}

// outcomeRefused reports an outcome that does not count.
func (c *Consumer) outcomeRefused(d *wire.Delivery, why error) {
	c.bus.report(event.Event{Kind: event.SettlementRefused, Subject: d.Subject, Stream: c.stream, Durable: c.durable,
		Sequence: d.Stored.Sequence, Err: c.superseded(why)})
}

func (c *Consumer) superseded(err error) error {
	return &StreamError{Stream: c.stream, Op: "settle for " + c.durable, Err: err}
}

// open begins to take messages in, as the owner.
func (s *sharing) open(owner *ownership.Owner) (ownership.Intake, error) {
	ctx, done := s.c.bus.core.Bound(context.Background())
	defer done()
	conf := s.conf
	conf.Run, conf.Owner = owner.Run, owner
	if err := s.c.openRecovery(ctx, s.o, &conf); err != nil {
		return nil, err
	}
	in, err := intake.OpenDurable(s.c.bus.core.Link, conf)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in = in
	return in, nil
}

func (s *sharing) latest() *intake.Durable {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in
}

func (s *sharing) Drain(ctx context.Context) error {
	defer close(s.done)
	return s.Member.Drain(ctx)
}

func (s *sharing) Done() <-chan struct{} { return s.done }

func (s *sharing) Err() error {
	s.mu.Lock()
	in, deleted := s.in, s.deleted
	s.mu.Unlock()
	switch {
	case deleted:
		return intake.ErrConsumerDeleted
	case in != nil:
		return in.Err()
	}
	return nil
}

// failed reports that this process cannot take part, and ends the consumer if that is
// because the durable was deleted. The member calls it.
func (s *sharing) failed(err error) {
	s.c.tell(event.ConsumerStalled, err)
	ctx, done := s.c.bus.core.Bound(context.Background())
	defer done()
	if _, err := s.c.bus.core.JetStream.Consumer(ctx, s.c.stream, s.c.durable); !jserr.IsAbsent(err) {
		return
	}
	s.mu.Lock()
	s.deleted = true
	s.mu.Unlock()
	s.c.stalled(intake.ErrConsumerDeleted)
}

func (s *sharing) Stalled() error {
	if err := s.Member.Stalled(); err != nil {
		return err
	}
	if in := s.latest(); in != nil && s.Owns() {
		return in.Stalled()
	}
	return nil
}

func (s *sharing) Pending() (msgs, bytes int) {
	if in := s.latest(); in != nil && s.Owns() {
		return in.Pending()
	}
	return 0, 0
}

// Longest is the handler call that has been running for longest, as far as this process
// gave it out.
func (s *sharing) Longest() (dispatch.Run, bool) {
	if in := s.latest(); in != nil && s.Owns() {
		return in.Longest()
	}
	return dispatch.Run{}, false
}

// Lag is what the owner knows.
func (s *sharing) Lag() (messages int, oldest time.Time) {
	if in := s.latest(); in != nil && s.Owns() {
		return in.Lag()
	}
	return 0, time.Time{}
}
