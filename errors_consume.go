package bus

import (
	"fmt"
	"strings"

	"github.com/omnibus-go/bus/internal/consumer"
	"github.com/omnibus-go/bus/internal/plural"
	"github.com/omnibus-go/bus/stats"
)

// ConsumerConflictError is returned by Consume if the durable exists with another
// configuration. Nothing was changed.
type ConsumerConflictError struct {
	Stream, Durable string
	Fields          []FieldChange

	MissingFilters []string // patterns that were asked for, and of whose messages the durable gets none or not all
	ExtraFilters   []string // patterns whose messages the durable gets, and that were not asked for

	// Why MissingFilters were not added to the durable, if nothing else differs.
	FirstSkipped uint64 // sequence of the first stored message that it would skip; 0 if there is none
	InUse        bool   // others take messages of the durable, and may have no handler for the new ones

	own bool // this bus has a consumer of the durable
}

func (e *ConsumerConflictError) Error() string {
	s := fmt.Sprintf("bus: consumer %q of stream %q exists with another configuration, nothing was changed: %s", e.Durable, e.Stream, joinChanges(e.Fields))
	switch missing := strings.Join(e.MissingFilters, ", "); {
	case e.FirstSkipped > 0:
		s += fmt.Sprintf("; it would skip stored messages of %s, because it is past them; the first is %d", missing, e.FirstSkipped)
	case e.InUse:
		s += fmt.Sprintf("; %s of it and may have no handler for %s", e.users(), missing)
	case missing != "":
		s += "; it does not get all messages of " + missing
	}
	if len(e.ExtraFilters) > 0 {
		s += "; it gets messages of " + strings.Join(e.ExtraFilters, ", ") + ", and this call does not handle all of them"
	}
	return s + "; " + e.remedy()
}

// users says who takes messages of the durable.
func (e *ConsumerConflictError) users() string {
	if e.own {
		return "another Consume of this bus takes messages"
	}
	return "other processes take messages"
}

// those names the consumers that have to end first.
func (e *ConsumerConflictError) those() string {
	if e.own {
		return "that one"
	}
	return "those"
}

// remedy says what to do about e.
func (e *ConsumerConflictError) remedy() string {
	another := "use another durable, or remove this one with Stream.DeleteConsumer, which forgets its position"
	if len(e.Fields) != 1 {
		return another
	}
	switch field := e.Fields[0].Field; {
	case e.FirstSkipped > 0:
		return "give them a durable of their own, or go back to them first: Consumer.Rewind with the handlers of before"
	case e.InUse:
		return "end " + e.those() + " first (Consumer.Drain), or give the new messages a durable of their own"
	case field == consumer.FieldFilter && len(e.ExtraFilters) > 0:
		return "give it handlers for all of them (Stream.Consume with a Mux, whose Default takes all that is left), or " + another
	case field == consumer.FieldKey:
		return "all processes must give the same key: end " + e.those() + " first (Consumer.Drain), or use another durable"
	case field == consumer.FieldStart:
		return "remove the start option, go back with Consumer.Rewind, or " + another
	}
	return another
}

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
	Messages int        // that other processes hold, or held when they died
	Running  int        // handlers of this process that had not returned
	Longest  stats.Call // the longest of them
	Err      error      // why the call did not wait longer
}

// Error says why the operation is not possible, and what to do.
func (e *ConsumerError) Error() string {
	switch {
	case e.Op == "redrive":
		return fmt.Sprintf("bus: stream %q has no consumer %q any more, so its dead letters cannot be redriven: nothing was redriven; call Consume once with that name, exclude these dead letters with DeadFilter, or Discard them", e.Stream, e.Durable)
	case e.Reason != "":
		return fmt.Sprintf("bus: consumer %q of stream %q: cannot go back to sequence %d: %s", e.Durable, e.Stream, e.Sequence, e.Reason)
	}
	what := fmt.Sprintf("other processes hold %s, or did when they died; drain those processes, or wait for the redelivery", plural.Of(e.Messages, "message", "messages"))
	if e.Running > 0 {
		what = plural.Of(e.Running, "handler has", "handlers have") + " not returned"
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
