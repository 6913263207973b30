package consumer

import (
	"errors"
	"fmt"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/ownership"
)

// ConflictError is returned by Open if the durable exists and cannot be used. Nothing was
// changed.
type ConflictError struct {
	Fields         []Difference
	MissingFilters []string // patterns that were asked for, and of whose messages the durable gets none or not all
	ExtraFilters   []string // patterns whose messages it gets, and that were not asked for

	// If the filters are all that differs, and none is to be removed: why they were not added.
	FirstSkipped uint64 // the first stored message of MissingFilters that lies before the place of the durable; 0 if none does
	InUse        bool   // other processes take messages of the durable, with the handlers they have
}

// Difference is a field of a durable that differs from what was asked for.
type Difference struct{ Field, Have, Want string }

func (e *ConflictError) Error() string { return fmt.Sprintf("the consumer differs: %v", e.Fields) }

// ForeignError is the failure of a message in S-retry, or from another process, that a durable
// never got from its stream.
type ForeignError struct {
	Stream, Subject string // of the message
	Durable         string
	Filters         []string // of the durable
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("bus: a message of stream %.100q with subject %.100q is none of durable %q, which is for %v; another program wrote it", e.Stream, e.Subject, e.Durable, e.Filters)
}

// The fields of a ConflictError that can be resolved in another way than by a new durable.
const (
	FieldKey    = "key"
	FieldStart  = "start"
	FieldFilter = "filter"
)

// ErrKeysHeld is returned by Open if another consumer of the bus takes the durable with keys,
// and the order cannot be kept together.
var ErrKeysHeld = errors.New("another consumer of this bus uses the durable with keys")

// ErrEnded is returned by calls on a consumer that has ended.
var ErrEnded = errors.New("the consumer has ended")

// ErrOutcomeUnknown is the error of event.SettlementRefused if nobody can say whether the outcome
// of the handler counts.
var ErrOutcomeUnknown = ownership.ErrUnknown

// RewindError is returned by Rewind. The durable is where it was.
type RewindError struct {
	Sequence uint64 // of the message to go back to; 0 if it was not looked up
	Reason   string // why it cannot go back; empty if messages were unfinished

	Messages int          // unfinished messages that other processes hold
	Running  int          // handlers of this process that had not returned
	Longest  dispatch.Run // the handler call that has been running for longest
	Err      error        // why it did not wait longer
}

func (e *RewindError) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("cannot go back to sequence %d: %s", e.Sequence, e.Reason)
	}
	return fmt.Sprintf("cannot go back while messages are unfinished: %v", e.Err)
}

// Unwrap returns why it did not wait longer.
func (e *RewindError) Unwrap() error { return e.Err }

// UnfinishedError says what Drain left.
type UnfinishedError struct {
	Pending int          // messages that were not handled
	Running int          // handlers that had not returned
	Longest dispatch.Run // the handler call that has been running for longest
	Err     error        // why it did not wait longer
}
