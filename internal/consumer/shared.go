package consumer

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
	"github.com/omnibus-go/bus/internal/ownership"
	"github.com/omnibus-go/bus/internal/wire"
)

// maxShared is how many messages of a shared durable may be handled at once, in all processes
// together, unless its owner alone handles more.
const maxShared = 256

// sharedTaker is a consumer's part in a durable whose order of keys several processes keep
// together. While this process is the owner it has an intake, a new one each time.
type sharedTaker struct {
	*ownership.Member
	c    *Consumer
	conf intake.DurableConfig // of each intake

	mu      sync.Mutex
	in      *intake.Durable // the latest; nil before there was one
	deleted bool            // the durable was deleted while this process had no intake
}

// share joins the processes that consume the durable.
func (c *Consumer) share() (*sharedTaker, error) {
	s := &sharedTaker{c: c, conf: c.intake}
	workers := s.conf.Concurrency
	s.conf.DeferRetry = nil
	if s.conf.Batch.Run == nil {
		s.conf.Concurrency = max(maxShared, workers)
	}
	var err error
	s.Member, err = ownership.NewMember(ownership.Config{
		Link: c.cfg.Core.Link, Stream: c.cfg.Stream.Name, Durable: c.cfg.Durable, ID: nuid.Next(),
		TTL: ownership.TTLOf(s.conf.AckWait), Workers: workers, RequestTimeout: c.cfg.Core.Timeout,
		WithReserve:    c.cfg.Core.WithReserve,
		Stopping:       s.conf.Stopping,
		Run:            s.conf.Run,
		RunBatch:       s.conf.Batch.Run,
		Exited:         c.cfg.Handler.Exited,
		Retrying:       c.retrying,
		Cause:          c.cfg.Handler.Cause,
		Open:           s.open,
		OutcomeRefused: c.outcomeRefused,
		Lost:           func(err error) { c.reportError(event.OwnershipLost, c.superseded(err)) },
		Failed:         s.failed,
		Odd:            func(err error) { c.reportError(event.OddRecord, err) },
		Accepts:        c.checkOurs,
		DurableDeleted: func() bool { return errors.Is(s.Err(), intake.ErrConsumerDeleted) },
	})
	return s, err
}

func (c *Consumer) reportError(kind event.Kind, err error) {
	c.cfg.Report(event.Event{Kind: kind, Stream: c.cfg.Stream.Name, Durable: c.cfg.Durable, Err: err})
}

// outcomeRefused reports an outcome that does not count. The member calls it.
func (c *Consumer) outcomeRefused(d *wire.Delivery, why error) {
	e := c.event(event.SettlementRefused, d, c.superseded(why))
	e.Attempt = 0
	c.cfg.Report(e)
}

func (c *Consumer) superseded(err error) error {
	return jserr.Wrap(c.cfg.Stream.Name, "settle for "+c.cfg.Durable, err)
}

// open opens an intake. The member calls it when this process has become the owner.
func (s *sharedTaker) open(owner *ownership.Owner) (ownership.Intake, error) {
	ctx, done := s.c.cfg.Core.Bound(context.Background())
	defer done()
	conf := s.conf
	conf.Run, conf.Owner = owner.Run, owner
	if conf.Batch.Run != nil {
		conf.Batch.Run = owner.RunBatch
	}
	if err := s.c.openRecovery(ctx, &conf); err != nil {
		return nil, err
	}
	in, err := intake.OpenDurable(s.c.cfg.Core.Link, conf)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in = in
	return in, nil
}

// latest returns the latest intake, nil before there was one.
func (s *sharedTaker) latest() *intake.Durable {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in
}

// owned returns the intake while this process is the owner, else nil.
func (s *sharedTaker) owned() *intake.Durable {
	if in := s.latest(); in != nil && s.Owns() {
		return in
	}
	return nil
}

// Err returns why this process takes no messages any more.
func (s *sharedTaker) Err() error {
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

// failed reports that this process cannot take part. It ends the consumer if that is because
// the durable was deleted. The member calls it.
func (s *sharedTaker) failed(err error) {
	c := s.c
	c.reportError(event.ConsumerStalled, err)
	ctx, done := c.cfg.Core.Bound(context.Background())
	defer done()
	if _, err := c.cfg.Core.JetStream.Consumer(ctx, c.cfg.Stream.Name, c.cfg.Durable); !jserr.IsAbsent(err) {
		return
	}
	s.mu.Lock()
	s.deleted = true
	s.mu.Unlock()
	c.stalled(intake.ErrConsumerDeleted)
}

// Stalled returns why no messages come.
func (s *sharedTaker) Stalled() error {
	if err := s.Member.Stalled(); err != nil {
		return err
	}
	if in := s.owned(); in != nil {
		return in.Stalled()
	}
	return nil
}

// Pending returns what waits at the owner, zero elsewhere.
func (s *sharedTaker) Pending() (msgs, bytes int) {
	if in := s.owned(); in != nil {
		return in.Pending()
	}
	return 0, 0
}

// Longest returns the handler call that has been running for longest, of those that this
// process assigned as the owner.
func (s *sharedTaker) Longest() (dispatch.Run, bool) {
	if in := s.owned(); in != nil {
		return in.Longest()
	}
	return dispatch.Run{}, false
}

// Lag returns what the owner knows, zero elsewhere.
func (s *sharedTaker) Lag() (messages int, oldest time.Time) {
	if in := s.owned(); in != nil {
		return in.Lag()
	}
	return 0, time.Time{}
}
