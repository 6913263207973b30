// Package event has the events that a bus reports to the function of
// bus.WithEvents: what happened and no call could return.
package event

import (
	"encoding/json"
	"errors"
	"time"
)

// Kind says what an Event is about. Its text is what the log shows.
type Kind string

// The kinds of events.
const (
	// HandlerFailed: a handler of Subscribe or Respond returned an error or panicked
	// (*bus.PanicError), or its message could not be decoded (*bus.CodecError,
	// *bus.ValidationError). The message is gone.
	HandlerFailed Kind = "handler failed"
	// Retry: a handler of Consume failed. The message comes again.
	Retry Kind = "retry"
	// DeadLetter: a consumer stored a message as a dead letter. Err is the last failure.
	DeadLetter Kind = "dead letter"
	// DeadLetterFailed: a dead letter could not be stored. The message stays in its
	// stream, and the consumer tries again. It is reported at most once a minute for a
	// message, and for all messages of a consumer for which the server has no room.
	DeadLetterFailed Kind = "dead letter failed"
	// Removed: a message waited for another attempt, and its stream removed it meanwhile: by a
	// limit, its TTL, Purge, or a newer message on its subject. It is not handled again.
	Removed Kind = "removed"
	// KeyStuck: a message has failed for 30 s, and many messages wait behind it because they
	// have the same key. Err says how many. See bus.AfterDeadLetter.
	KeyStuck Kind = "key stuck"
	// Unrouted: a Mux has no handler for the subject.
	Unrouted Kind = "unrouted"
	// SubscriptionEnded: a handler of Subscribe or Respond with a Concurrency of 1 ended
	// its goroutine (bus.ErrExited). The subscription has ended with it.
	SubscriptionEnded Kind = "subscription ended"
	// SlowConsumer: a subscription dropped messages because its handler is too slow.
	// Dropped is how many so far. It is reported at the first dropped message, then at most
	// once a minute while messages are dropped, and when the subscription ends.
	SlowConsumer Kind = "slow consumer"
	// PublishFailed: PublishAsync accepted a message and could not send it; or the server
	// refused a message that no call waits for, because a permission is missing (Err is a
	// *bus.SubjectError). The latter is reported at most once a minute for a subject.
	PublishFailed Kind = "publish failed"
	// Captured: Publish was called with a subject that a stream stores. Err is a
	// *bus.CapturedError. It is reported once for each of the first 1,024 subjects.
	Captured Kind = "captured"
	// Disconnected: the connection to the server was lost.
	Disconnected Kind = "disconnected"
	// Reconnected: the connection to the server is back.
	Reconnected Kind = "reconnected"
	// ConnectionClosed: the connection ended for good, and not by Close.
	ConnectionClosed Kind = "connection closed"
	// LinkDown: the link of WithLeaf has been down for two seconds. The bus works without it. Err
	// says why, as far as the embedded server has said.
	LinkDown Kind = "link down"
	// LinkUp: the link of WithLeaf is up.
	LinkUp Kind = "link up"
	// DomainTaken: another edge at the same hub has the Domain of this one, so that the hub cannot
	// tell their streams apart. Err names it.
	DomainTaken Kind = "domain taken"
	// StoreFull: the server refuses messages because a limit of memory or disk is reached:
	// WithMaxStore or WithMaxMemory, or those of the account. It is reported at most once a
	// minute. Err says how much is in use and what to do.
	StoreFull Kind = "store full"
	// ServerError: the server refused something that no call waits for, such as a
	// subscription without permission; or the store directory of an embedded server was
	// removed, moved or replaced; or a switch home has failed, and its streams do not have their
	// subjects back (*switchover.FencedError).
	ServerError Kind = "server error"
	// ConsumerStalled: a consumer gets no messages. Its stream or durable is gone or has no
	// leader, or messages with keys wait for earlier ones that another process has. The
	// consumer goes on trying.
	ConsumerStalled Kind = "consumer stalled"
	// OwnershipLost: this process owned a durable with keys, did not renew its lease in
	// time, and another process owns the durable now. The consumer goes on as a member.
	OwnershipLost Kind = "ownership lost"
	// SettlementRefused: a handler of a durable with keys returned, and its outcome does
	// not count, because this process lost the ownership, or the owner that gave it the
	// message died, or the consumer had stopped. The message comes again; another process
	// may handle it at the same time. If Err is bus.ErrUnknownOutcome, the outcome may count:
	// the reply was lost before the owner changed. Then the message may come again.
	SettlementRefused Kind = "settlement refused"
	// OddRecord: a record or message that the library keeps for itself, in S-retry, in S-keys
	// or between the processes that share a durable with keys, was not written by the library,
	// or is damaged, or was written by another version of the library. Err says what it is and
	// what was done. The consumer goes on. A message of its own that it cannot read stays, and
	// later ones of its key wait. Let no other program publish to $OMNIBUS.>.
	OddRecord Kind = "odd record"
)

// Event is something that happened on a bus and that no call could return. Fields that
// do not apply are zero. An Event can be written as JSON and read again: Err is its text under
// the name "error".
type Event struct {
	Kind     Kind      `json:"kind"`
	Time     time.Time `json:"time"`     // when it was reported
	Subject  string    `json:"subject"`  // of the message or subscription
	Stream   string    `json:"stream"`   // of the consumer
	Durable  string    `json:"durable"`  // of the consumer
	Sequence uint64    `json:"sequence"` // of the message in its stream
	Attempt  int       `json:"attempt"`  // of Retry, DeadLetter and DeadLetterFailed: how many handler calls failed
	Dropped  int       `json:"dropped"`  // of SlowConsumer: how many messages the subscription has dropped since it began
	Err      error     `json:"-"`        // why; may be nil
}

// written is an Event without methods, with the text of its error.
type written struct {
	fields
	Error string `json:"error"` // empty without an error
}

// fields are those of an Event, without its methods.
type fields Event

// MarshalJSON returns the event as JSON.
func (e Event) MarshalJSON() ([]byte, error) {
	w := written{fields: fields(e)}
	if e.Err != nil {
		w.Error = e.Err.Error()
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON wrote. Err has the same text and is of no particular type.
func (e *Event) UnmarshalJSON(data []byte) error {
	var w written
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	*e = Event(w.fields)
	if w.Error != "" {
		e.Err = errors.New(w.Error)
	}
	return nil
}
