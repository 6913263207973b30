package bus

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Lag is how far a durable consumer is behind, with all its members on all processes.
// Messages parked until a later attempt, and dead letters, are not of it.
type Lag struct {
	Waiting    int       // messages that were sent to no member yet
	Unfinished int       // messages that a member has and has not finished
	Oldest     time.Time // when the oldest of all these was stored; zero where there are none

	PausedUntil time.Time // until when Pause holds up all that waits; zero where it does not
}

// Lag asks the server how far the consumer is behind, also after its Drain. Stats tells
// the same as it was known at the last look, without asking: that is up to 10 s ago, up
// to a minute where nothing was to do, and nothing before the first look. Errors: *OptionError, *StreamError,
// ErrStreamNotFound, ErrTimeout, ErrClosed.
func (c *Consumer) Lag(ctx context.Context) (Lag, error) {
	if c.none() {
		return Lag{}, badArgument("Consumer.Lag", "consumer", "is nil; did Consume fail?")
	}
	if err := c.bus.callable(ctx, "Consumer.Lag"); err != nil {
		return Lag{}, err
	}
	ctx, cancel := c.bus.core.WithTimeout(ctx)
	defer cancel()
	con, err := c.bus.core.JetStream.Consumer(ctx, c.stream, c.durable)
	if err != nil {
		return Lag{}, streamError(c.stream, "look up the consumer", err)
	}
	i := con.CachedInfo()
	l := Lag{Waiting: int(i.NumPending), Unfinished: i.NumAckPending, PausedUntil: pausedUntil(i)}
	if l.Waiting+l.Unfinished == 0 {
		return l, nil
	}
	for _, filter := range c.filters {
		d, ok, err := c.bus.firstFrom(ctx, c.stream, filter, i.AckFloor.Stream+1)
		if err != nil {
			return l, err
		}
		if ok && (l.Oldest.IsZero() || d.Stored.Time.Before(l.Oldest)) {
			l.Oldest = d.Stored.Time
		}
	}
	return l, nil
}

// firstFrom returns the first message of a stream that matches a pattern, from a sequence on.
func (b *Bus) firstFrom(ctx context.Context, stream, pattern string, sequence uint64) (d wire.Delivery, ok bool, err error) {
	r := b.reader(stream, pattern, &replayOptions{from: sequence})
	defer r.Close()
	d, ok, err = r.One(ctx)
	if err != nil && ctx.Err() != nil {
		err = contextError(ctx)
	}
	if err != nil {
		err = streamError(stream, "read", err)
	}
	return d, ok, err
}

// observeConsumers tells metrics how far the consumers of b are behind.
func (b *Bus) observeConsumers() (err error) {
	b.unobserve, err = b.core.Telemetry.ObserveConsumers(func() []telemetry.Consumer {
		var all []telemetry.Consumer
		for _, m := range b.registry.Members() {
			if c, ok := m.(*Consumer); ok {
				s := c.stats()
				all = append(all, telemetry.Consumer{Template: s.Subject, Stream: s.Stream, Group: s.Durable, Lag: s.Lag, OldestAge: s.OldestAge})
			}
		}
		return all
	})
	return err
}

// setLag sets what is known of the lag.
func (s *SubscriptionStats) setLag(messages int, oldest time.Time) {
	s.Lag = messages
	if !oldest.IsZero() {
		s.OldestAge = max(time.Since(oldest), 0)
	}
}
