package bus

import "fmt"

// ConflictError is returned when a message was not stored because another one is the
// last than it expected (ExpectLastSequence, ExpectLastSubjectSequence,
// ExpectLastSequenceOf). Read what is there, decide anew, and publish with Actual.
type ConflictError struct {
	Stream   string
	Subject  string // the subject or filter of the expectation; empty for the whole stream
	Expected uint64
	Actual   uint64 // the last sequence when the stream refused the message; 0 for none

	err *StreamError
}

func (e *ConflictError) Error() string {
	what := ""
	if e.Subject != "" {
		what = fmt.Sprintf(" of %.200q", e.Subject)
	}
	return fmt.Sprintf("bus: stream %q: the last sequence%s is %d, not %d as expected; nothing was stored, read what is there and decide anew", e.Stream, what, e.Actual, e.Expected)
}

// Unwrap returns the server's answer, a *StreamError.
func (e *ConflictError) Unwrap() error { return e.err }

// BatchSizeError is returned for a batch that has no messages, or too many. Nothing
// was sent.
type BatchSizeError struct{ Messages, Limit int }

func (e *BatchSizeError) Error() string {
	if e.Messages == 0 {
		return fmt.Sprintf("bus: PublishToBatch: the batch is empty; give it 1 to %d items", e.Limit)
	}
	return fmt.Sprintf("bus: PublishToBatch: the batch has %d items, the limit is %d; split it; each part is then stored by itself", e.Messages, e.Limit)
}

// ItemError says which item of a batch an error is about. Nothing was stored.
type ItemError struct {
	Index int // from 0
	Err   error
}

func (e *ItemError) Error() string {
	return fmt.Sprintf("bus: PublishToBatch: item %d: %s", e.Index, inner(e.Err))
}

// Unwrap returns what is wrong with the item: *SubjectError, *PayloadError, ….
func (e *ItemError) Unwrap() error { return e.Err }

// DuplicateError is returned when an item of a batch has a MsgID that the stream
// knows from another message than the same item of the same batch, or that another
// item has too. Nothing was stored.
type DuplicateError struct {
	Stream   string
	MsgID    string
	Sequence uint64 // of the message that has it; 0 where that is an item of the batch
}

func (e *DuplicateError) Error() string {
	if e.Sequence == 0 {
		return fmt.Sprintf("bus: stream %q: two items have the MsgID %.64q; a batch stores all of its items or none", e.Stream, e.MsgID)
	}
	return fmt.Sprintf("bus: stream %q: message %d has the MsgID %.64q already; a batch stores all of its items or none, leave that one out", e.Stream, e.Sequence, e.MsgID)
}
