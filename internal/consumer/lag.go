package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/reader"
)

// Lag is how far a durable is behind, in all processes together.
type Lag struct {
	Waiting     int       // messages that were sent to no process yet
	Unfinished  int       // messages that a process has and has not finished
	Oldest      time.Time // when the oldest of all these was stored; zero if there are none
	PausedUntil time.Time // zero if it is not paused
}

// Lag asks the server how far the durable is behind. Errors are *jserr.Error.
//
// The server confirms a message before it counts it for its consumers. So where it counts
// none, Lag looks for a message behind the last one that was delivered.
func (c *Consumer) Lag(ctx context.Context) (Lag, error) {
	ctx, cancel := c.cfg.Core.WithTimeout(ctx)
	defer cancel()
	con, err := c.cfg.Core.JetStream.Consumer(ctx, c.cfg.Stream.Name, c.cfg.Durable)
	if err != nil {
		return Lag{}, jserr.Wrap(c.cfg.Stream.Name, "look up the consumer", err)
	}
	i := con.CachedInfo()
	l := Lag{Waiting: int(i.NumPending), Unfinished: i.NumAckPending, PausedUntil: pausedUntil(i)}
	first := i.AckFloor.Stream + 1
	if l.Waiting+l.Unfinished == 0 {
		first = i.Delivered.Stream + 1
	}
	for _, filter := range c.cfg.Filters {
		stored, err := c.storedFrom(ctx, filter, first)
		if err != nil {
			return l, err
		}
		if !stored.IsZero() && (l.Oldest.IsZero() || stored.Before(l.Oldest)) {
			l.Oldest = stored
		}
	}
	if l.Waiting+l.Unfinished == 0 && !l.Oldest.IsZero() {
		l.Waiting = 1
	}
	return l, nil
}

// storedFrom returns when the first message that matches, from a sequence on, was stored. It
// returns the zero time if there is none.
func (c *Consumer) storedFrom(ctx context.Context, filter string, sequence uint64) (time.Time, error) {
	r := reader.New(c.cfg.Core.Link, reader.Config{Stream: c.cfg.Stream.Name, Filter: filter, From: sequence,
		Timeout: c.cfg.Core.Timeout, Ended: c.cfg.Core.Handlers.Done()})
	defer r.Close()
	d, ok, err := r.One(ctx)
	if err != nil && ctx.Err() != nil {
		if err = ctx.Err(); !errors.Is(err, context.Cause(ctx)) {
			err = fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
	if err != nil || !ok {
		return time.Time{}, jserr.Wrap(c.cfg.Stream.Name, "read", err)
	}
	return d.Stored.Time, nil
}
