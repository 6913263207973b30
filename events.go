package bus

import (
	"errors"
	"fmt"
	"time"
)

// EventKind says what an Event is about.
type EventKind string

// The kinds of events.
const (
	// EventHandlerFailed: a core handler returned an error or panicked (*PanicError),
	// or its message could not be decoded (*CodecError, *ValidationError). The
	// message is gone.
	EventHandlerFailed EventKind = "handler failed"
	// EventRetry: a Consume handler failed, likewise; the message comes again.
	EventRetry EventKind = "retry"
	// EventDeadLetter: a consumer has given a message up; Err is the last failure.
	EventDeadLetter EventKind = "dead letter"
	// EventDeadLetterFailed: it could not be stored as a dead letter; it stays where
	// it is, and this is tried again.
	EventDeadLetterFailed EventKind = "dead letter failed"
	// EventKeyStuck: behind a message that fails so many others of its key wait that
	// they take much of the room there is, Err says how many; see OnStuckKey.
	EventKeyStuck EventKind = "key stuck"
	// EventUnrouted: a Mux had no handler for the subject.
	EventUnrouted EventKind = "unrouted"
	// EventSubscriptionEnded: a handler of Subscribe or Respond with a Concurrency of 1
	// ended its goroutine (ErrExited), and with it the subscription: messages come on no
	// other one.
	EventSubscriptionEnded EventKind = "subscription ended"
	// EventSlowConsumer: messages were dropped, Err is a *SlowConsumerError. Reported
	// at the first one, after a second and then ever less often, up to each minute,
	// while that goes on, and in the end.
	EventSlowConsumer EventKind = "slow consumer"
	// EventPublishFailed: PublishAsync could not send a message it had accepted.
	EventPublishFailed EventKind = "publish failed"
	// EventCaptured: Publish to a subject that a stream stores, Err is a
	// *CapturedError. Reported once for each of the first 1,024 subjects.
	EventCaptured EventKind = "captured"
	// EventDisconnected, EventReconnected and EventConnectionClosed: the
	// connection was lost, came back, or ended for good without Close.
	EventDisconnected     EventKind = "disconnected"
	EventReconnected      EventKind = "reconnected"
	EventConnectionClosed EventKind = "connection closed"
	// EventServerError: the server refused something that no call waits for, as
	// a subscription without permission.
	EventServerError EventKind = "server error"
	// EventConsumerStalled: a consumer cannot get messages (its stream or
	// durable is gone, or has no leader), or none with keys may begin since earlier
	// ones are elsewhere; it goes on trying.
	EventConsumerStalled EventKind = "consumer stalled"
	// EventOwnershipLost: this process kept the order of a durable with keys, was not
	// heard of for too long, and another one does now. It goes on as a member.
	EventOwnershipLost EventKind = "ownership lost"
	// EventSettlementRefused: a handler of a durable with keys has ended, and its
	// outcome does not count, as this process was taken for dead meanwhile, or the one
	// that had given it the message died: another one handles the message too, in the
	// former case perhaps at the same time. Or the consumer had ended before its
	// handler, by Stop or as it could not wait longer; then the message comes again.
	EventSettlementRefused EventKind = "settlement refused"
)

// Event is something that happened on a bus and that no call could return.
type Event struct {
	Kind     EventKind
	Time     time.Time
	Subject  string // what the message or subscription is about; may be empty
	Stream   string // of a consumer
	Durable  string // of a consumer
	Sequence uint64 // of a stored message
	Attempt  int    // of EventRetry, EventDeadLetter and EventDeadLetterFailed: how many handler calls have failed
	Err      error  // may be nil
}

// report logs e and tells the user's function.
func (b *Bus) report(e Event) {
	e.Time = time.Now()
	b.counters.Events.Add(1)
	b.logEvent(e)
	if b.cfg.onEvent == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			b.cfg.logger.Error("the function of WithEvents panicked", "panic", fmt.Sprint(v), "event", string(e.Kind))
		}
	}()
	b.cfg.onEvent(e)
}

func (b *Bus) logEvent(e Event) {
	var args []any
	for _, a := range []struct {
		key, value string
	}{{"subject", e.Subject}, {"stream", e.Stream}, {"durable", e.Durable}} {
		if a.value != "" {
			args = append(args, a.key, a.value)
		}
	}
	if e.Sequence != 0 {
		args = append(args, "sequence", e.Sequence)
	}
	if e.Attempt != 0 {
		args = append(args, "attempt", e.Attempt)
	}
	if e.Err != nil {
		args = append(args, "error", e.Err)
	}
	if p, ok := errors.AsType[*PanicError](e.Err); ok {
		args = append(args, "stack", string(p.Stack))
	}
	if e.Kind == EventReconnected {
		b.cfg.logger.Info(string(e.Kind), args...)
		return
	}
	b.cfg.logger.Warn(string(e.Kind), args...)
}
