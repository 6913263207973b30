package outlet

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// Expectation says which sequence must be the last one for a message to be stored. The
// message has it in its header too.
type Expectation struct {
	Whole    bool   // the last sequence of the stream
	Filter   string // the last one on subjects that this matches; empty: on the message's own
	Sequence uint64
}

// Of returns the subject or pattern whose last sequence is expected for a message on subj.
// It is empty for the whole stream.
func (e *Expectation) Of(subj string) string {
	if e.Whole || e.Filter != "" {
		return e.Filter
	}
	return subj
}

// ConflictError reports a message that was not stored: another sequence is the last one
// than it expects, or the stream knows its ID from another message.
type ConflictError struct {
	Filter           string // the subject or pattern of the expectation; empty for the whole stream
	Expected, Actual uint64 // Actual is 0 if there is no such message
	MsgID            string // if the ID is known; then Actual is the message that has it
	Err              error  // the server's answer
}

func (e *ConflictError) Error() string {
	if e.MsgID != "" {
		return fmt.Sprintf("message %d has the ID %.64q", e.Actual, e.MsgID)
	}
	return fmt.Sprintf("the last sequence of %q is %d, not %d", e.Filter, e.Actual, e.Expected)
}

// Unwrap returns the server's answer.
func (e *ConflictError) Unwrap() error { return e.Err }

// ResolveConflict finds out what err means, with which Store or a Future of m ended. It
// returns the acknowledgement if the message is stored after all. It returns a
// *ConflictError, together with ErrUnknown if nobody can say. Other errors it returns as
// they are. expect is nil if m expects nothing.
//
// A server without replicas compares sequences before it looks for the ID. So a message
// that was stored and is sent again meets itself. Therefore the message is looked for
// first.
func (o *Outlet) ResolveConflict(ctx context.Context, stream string, m *Message, expect *Expectation, err error) (Ack, error) {
	if expect == nil || !jserr.IsWrongLastSequence(err) {
		return Ack{}, err
	}
	unknown := errors.Is(err, ErrUnknown)
	if m.ID != "" {
		ack, found, findErr := o.Find(ctx, stream, m.Subject, m.ID)
		if !found && findErr == nil && unknown {
			ack, found, findErr = o.findAfterExpected(ctx, stream, m, expect)
		}
		switch {
		case found:
			return ack, nil
		case findErr == nil:
			unknown = false
		}
	}
	conflict := o.conflict(ctx, stream, m, expect, err)
	if unknown {
		return Ack{}, fmt.Errorf("%w: %w", ErrUnknown, conflict)
	}
	return Ack{}, conflict
}

// findAfterExpected looks for m after the window for duplicates has ended. If m was stored,
// it is the next message after the one that it expects.
func (o *Outlet) findAfterExpected(ctx context.Context, stream string, m *Message, expect *Expectation) (ack Ack, found bool, err error) {
	q := Query{Sequence: expect.Sequence + 1, Next: expect.Of(m.Subject)}
	stored, found, err := o.LookUp(ctx, stream, q)
	if !found || wire.Get(stored.Header, wire.HeaderNatsMsgID) != m.ID {
		return Ack{}, false, err
	}
	return Ack{Stream: stream, Sequence: stored.Sequence, Duplicate: true}, true, nil
}

// conflict returns the error for a refused expectation of m, with the actual sequence. The
// answer of the server has that, except if a cluster is storing other messages. Then it is
// what the leader has now.
func (o *Outlet) conflict(ctx context.Context, stream string, m *Message, expect *Expectation, err error) *ConflictError {
	e := &ConflictError{Filter: expect.Of(m.Subject), Expected: expect.Sequence, Err: err}
	if refused, ok := errors.AsType[*jserr.Refusal](err); ok {
		_, number, _ := strings.Cut(refused.Description, ": ")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil {
			e.Actual = n
			return e
		}
	}
	if n, err := o.lastSequence(ctx, stream, e.Filter); err == nil {
		e.Actual = n
	}
	return e
}

// lastSequence returns the sequence of the last message that filter matches, or 0. An empty
// filter matches all.
func (o *Outlet) lastSequence(ctx context.Context, stream, filter string) (uint64, error) {
	if filter == "" {
		filter = ">"
	}
	stored, _, err := o.LookUp(ctx, stream, Query{Last: filter})
	return stored.Sequence, err
}
