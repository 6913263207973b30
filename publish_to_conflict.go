package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// isConflict reports whether err is a stream's refusal for another last sequence.
func isConflict(err error) bool {
	return jserr.IsWrongLastSequence(err)
}

// conflict finds out what a conflict of m means. A server without replicas compares
// sequences before it looks for the MsgID, so a message that was stored meets itself
// when it is sent again. Hence it is looked for first: a duplicate is none the less
// one for what it expects.
func (s *Stream) conflict(ctx context.Context, m *outlet.Message, expect *expectation, err error) (outlet.Ack, error) {
	doubt := errors.Is(err, outlet.ErrUnknown)
	if m.ID != "" {
		ack, found, findErr := s.bus.core.Outlet.Find(ctx, m.Subject, m.ID)
		if found {
			return ack, nil
		}
		if findErr == nil && doubt {
			ack, found, findErr = s.findStored(ctx, m, expect)
		}
		switch {
		case found:
			return ack, nil
		case findErr == nil:
			doubt = false
		}
	}
	conflict := s.conflictOf(ctx, expect.of(m.Subject), expect.sequence, err)
	if doubt {
		return outlet.Ack{}, fmt.Errorf("%w: %w", outlet.ErrUnknown, conflict)
	}
	return outlet.Ack{}, conflict
}

// findStored looks for m beyond the window for duplicates: if it was stored, then
// right after what it expected.
func (s *Stream) findStored(ctx context.Context, m *outlet.Message, expect *expectation) (ack outlet.Ack, found bool, err error) {
	q := outlet.Query{Sequence: expect.sequence + 1, Next: expect.of(m.Subject)}
	stored, found, err := s.bus.core.Outlet.LookUp(ctx, s.name, q)
	if !found || wire.Get(stored.Header, wire.HeaderNatsMsgID) != m.ID {
		return outlet.Ack{}, false, err
	}
	return outlet.Ack{Stream: s.name, Sequence: stored.Sequence, Duplicate: true}, true, nil
}

// conflictOf is the error of a refusal, with the actual sequence. The stream says it,
// unless messages are under way in a cluster: then it is what the leader has now.
func (s *Stream) conflictOf(ctx context.Context, filter string, expected uint64, err error) *ConflictError {
	e := &ConflictError{Stream: s.name, Subject: filter, Expected: expected, err: streamError(s.name, "publish", err)}
	if refused, ok := errors.AsType[*jserr.Refusal](err); ok {
		_, number, _ := strings.Cut(refused.Description, ": ")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil {
			e.Actual = n
			return e
		}
	}
	if n, err := s.lastOf(ctx, filter); err == nil {
		e.Actual = n
	}
	return e
}

// lastOf returns the sequence of the last message that filter matches, empty for the
// whole stream, or 0.
func (s *Stream) lastOf(ctx context.Context, filter string) (uint64, error) {
	if filter == "" {
		filter = ">"
	}
	stored, _, err := s.bus.core.Outlet.LookUp(ctx, s.name, outlet.Query{Last: filter})
	return stored.Sequence, err
}
