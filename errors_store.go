package bus

import "fmt"

// ConflictError is returned when a message was not stored because the last sequence is not
// the expected one (ExpectLastSequence, ExpectLastSubjectSequence, ExpectLastSequenceOf).
// Read what is there, decide again, and publish with Actual.
//
// It is also returned when an item of a batch has a MsgID that the stream knows from another
// message, or that an earlier item has. Then MsgID is set and nothing was stored.
type ConflictError struct {
	Stream   string
	Subject  string // the subject or filter of the expectation; empty for the whole stream
	Expected uint64
	Actual   uint64 // the last sequence when the stream refused the message; 0 for none. With MsgID the message that has it; 0 for an item of the same batch
	MsgID    string // empty if the conflict is about a sequence

	err *StreamError
}

func (e *ConflictError) Error() string {
	switch {
	case e.MsgID != "" && e.Actual == 0:
		return fmt.Sprintf("bus: stream %q: two items have the MsgID %.64q; a batch stores all of its items or none", e.Stream, e.MsgID)
	case e.MsgID != "":
		return fmt.Sprintf("bus: stream %q: message %d has the MsgID %.64q already; a batch stores all of its items or none, leave that one out", e.Stream, e.Actual, e.MsgID)
	}
	what := ""
	if e.Subject != "" {
		what = fmt.Sprintf(" of %.200q", e.Subject)
	}
	return fmt.Sprintf("bus: stream %q: the last sequence%s is %d, not %d as expected; nothing was stored, read what is there and decide again", e.Stream, what, e.Actual, e.Expected)
}

// Unwrap returns the server's answer, a *StreamError, or nil.
func (e *ConflictError) Unwrap() error {
	if e.err == nil {
		return nil
	}
	return e.err
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
