package consumer

import (
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
)

// Stats is the state of a consumer at one moment.
type Stats struct {
	Begun, Ended  int64 // handler calls, of all intakes
	Pending       int   // messages that wait for a handler
	PendingBytes  int
	InFlight      int
	Longest       dispatch.Run // the handler call that has been running for longest; zero for none
	Lag           int          // messages, at the last look
	OldestPending time.Time    // when the oldest of them was stored
	Owner         bool         // it owns a shared durable
}

// Stats returns the state of the consumer, also after its end.
func (c *Consumer) Stats() Stats {
	t, past := c.current()
	s := Stats{Begun: past.begun + t.Begun(), Ended: past.ended + t.Ended(), InFlight: t.InFlight()}
	s.Pending, s.PendingBytes = t.Pending()
	s.Longest, _ = t.Longest()
	for _, f := range c.formerIntakes() {
		s.InFlight += f.InFlight()
		if longest, runs := f.Longest(); runs && (s.Longest.Since.IsZero() || longest.Since.Before(s.Longest.Since)) {
			s.Longest = longest
		}
	}
	s.Lag, s.OldestPending = t.Lag()
	if shared, ok := t.(*sharedTaker); ok {
		s.Owner = shared.Owns()
	}
	return s
}

// Stalled returns why no messages come, or nil.
func (c *Consumer) Stalled() error {
	t, _ := c.current()
	return t.Stalled()
}

// DeadLetterFailure returns why the latest dead letter could not be stored, or nil.
func (c *Consumer) DeadLetterFailure() error {
	if err := c.deadLetterFailure.Load(); err != nil {
		return *err
	}
	return nil
}
