package sidestream

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/wire"
)

// maxDelay is the longest time until a deferred retry. It ends before the year 2262, where
// nanoseconds overflow: the server would take a later time for one in the past.
const maxDelay = 100 * 365 * 24 * time.Hour

// DeferRetry stores a copy of d that the server turns into a returning message at a time.
// The caller acknowledges d afterwards. It needs CanDefer.
func (s *Store) DeferRetry(ctx context.Context, d *wire.Delivery, at time.Time) error {
	if latest := time.Now().Add(maxDelay); at.After(latest) {
		at = latest
	}
	return s.put(inTraceOf(ctx, d), Later, d, func(a Address) wire.Out {
		out := CopyOf(d, d.Stored.Attempt-1).Message(a.Subject(Later))
		out.Header[wire.HeaderNatsSchedule] = []string{"@at " + at.UTC().Format(time.RFC3339Nano)}
		out.Header[wire.HeaderNatsScheduleTarget] = []string{a.Subject(Retry)}
		return out
	})
}

// Source returns the source of the durable's messages that come back.
func (s *Store) Source() intake.Source {
	stream := RetryStream(s.stream.Name)
	return intake.Source{
		Next:     "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + s.durable,
		Info:     "$JS.API.CONSUMER.INFO." + stream + "." + s.durable,
		MaxHeld:  s.maxHeld,
		Restore:  restore,
		Recreate: s.Recreate,
	}
}

// restore turns a copy that comes back into the message that it was.
func restore(d *wire.Delivery) error {
	c, err := ParseCopy(d.Header, d.Data)
	if err != nil {
		return err
	}
	if _, a, ok := ParseSubject(d.Subject); ok {
		d.Stored.Incarnation = a.Incarnation
	}
	d.Subject, d.Header = c.Subject, c.Header
	d.Stored.Stream, d.Stored.Sequence, d.Stored.Time = c.Stream, c.Sequence, c.Time
	d.Stored.Attempt, d.Stored.DeadLetter = c.Attempts+1, c.DeadLetter
	return nil
}
