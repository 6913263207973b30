package bus

import (
	"fmt"
	"time"
)

// ConsumerError is returned when an operation on a durable consumer is not possible. The
// durable and its messages are as they were before.
type ConsumerError struct {
	Op              string // "rewind" (Consumer.Rewind) or "redrive" (Redrive, RedriveAs)
	Stream, Durable string

	// Rewind: the durable cannot go back to Sequence, for a Reason.
	Sequence uint64
	Reason   string

	// Rewind: unfinished messages, whose acknowledgements would count for the messages that
	// are sent again, were not done when the context ended.
	Messages int     // that other processes hold, or held when they died
	Running  int     // handlers of this process that had not returned
	Longest  Running // the longest of them
	Err      error   // why the call did not wait longer
}

func (e *ConsumerError) Error() string {
	switch {
	case e.Op == "redrive":
		return fmt.Sprintf("bus: stream %q has no consumer %q any more, which gave up dead letters and would get them back: nothing was given back; Consume once with that name, leave these dead letters out with DeadFilter, or Discard them", e.Stream, e.Durable)
	case e.Reason != "":
		return fmt.Sprintf("bus: consumer %q of stream %q: cannot go back to sequence %d: %s", e.Durable, e.Stream, e.Sequence, e.Reason)
	}
	what := fmt.Sprintf("other members hold %d messages, or died with them; drain the others, or wait until their messages have come again", e.Messages)
	if e.Running > 0 {
		what = fmt.Sprintf("%d handlers have not returned", e.Running)
		if e.Longest.Subject != "" {
			what += fmt.Sprintf(" (%s)", e.Longest)
		}
	}
	return fmt.Sprintf("bus: consumer %q of stream %q: cannot go back while messages are unfinished: %s: %s", e.Durable, e.Stream, what, inner(e.Err))
}

// Unwrap returns why the call did not wait longer.
func (e *ConsumerError) Unwrap() error { return e.Err }

// Is reports whether target is ErrTimeout and the call did not wait longer because its time
// was over.
func (e *ConsumerError) Is(target error) bool { return isTimeout(target, e.Err) }

// Running is a handler call that has not returned.
type Running struct {
	Subject  string // of its message, of a batch the first; empty for none
	Sequence uint64 // likewise
	For      time.Duration
}

func (r Running) String() string {
	return fmt.Sprintf("message %d on %s for %v", r.Sequence, r.Subject, r.For.Round(time.Millisecond))
}
