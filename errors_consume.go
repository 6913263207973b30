package bus

import (
	"fmt"
	"time"
)

// RewindError is returned by Consumer.Rewind when the durable cannot go back to where
// it was told. It is where it was.
type RewindError struct {
	Stream, Durable string
	To              uint64 // the sequence
	Reason          string
}

func (e *RewindError) Error() string {
	return fmt.Sprintf("bus: consumer %q of stream %q: cannot go back to sequence %d: %s", e.Durable, e.Stream, e.To, e.Reason)
}

// UnfinishedError is returned by Consumer.Rewind when it waited, until its context
// ended, for messages that were sent before: their acknowledgements would count for
// what is sent again. The durable is where it was.
type UnfinishedError struct {
	Stream, Durable string
	Messages        int // that other members hold, or held when they died
	Running         int // handlers of this member that had not returned
	Longest         Running
	Err             error // why it did not wait longer
}

func (e *UnfinishedError) Error() string {
	what := fmt.Sprintf("other members hold %d messages, or died with them; drain the others, or wait until their messages have come again", e.Messages)
	if e.Running > 0 {
		what = fmt.Sprintf("%d handlers have not returned", e.Running)
		if e.Longest.Subject != "" {
			what += fmt.Sprintf(" (%s)", e.Longest)
		}
	}
	return fmt.Sprintf("bus: consumer %q of stream %q: cannot go back while messages are unfinished: %s: %s", e.Durable, e.Stream, what, inner(e.Err))
}

// Unwrap returns why it did not wait longer.
func (e *UnfinishedError) Unwrap() error { return e.Err }

// Is reports whether target is ErrTimeout, where that was the end of the time.
func (e *UnfinishedError) Is(target error) bool { return isTimeout(target, e.Err) }

// ConsumerNotFoundError is returned by Redrive and RedriveAs for a dead letter whose
// consumer was deleted on the server. The letter stays.
type ConsumerNotFoundError struct{ Stream, Durable string }

func (e *ConsumerNotFoundError) Error() string {
	return fmt.Sprintf("bus: stream %q has no consumer %q any more, which gave dead letters up and would get them back: nothing was given back; Consume once with that name, leave these letters out with DeadFilter, or Discard them", e.Stream, e.Durable)
}

// Running is a handler call that has not returned.
type Running struct {
	Subject  string // of its message, of a batch the first; empty for none
	Sequence uint64 // likewise
	For      time.Duration
}

func (r Running) String() string {
	return fmt.Sprintf("message %d on %s for %v", r.Sequence, r.Subject, r.For.Round(time.Millisecond))
}
