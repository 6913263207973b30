package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/omnibus-go/bus/internal/outlet"
)

// Ack says where a message was stored.
type Ack struct {
	Stream    string
	Sequence  uint64 // from 1
	Duplicate bool   // a message with this MsgID was there already, at Sequence
}

// PublishTo stores v in the stream st and waits until that is done: nil means
// stored, as safely as the stream's storage and WithSync say. s must be one of
// the stream's subjects.
//
// With MsgID the same message is stored once within the stream's Duplicates
// window, and PublishTo repeats itself until it knows the outcome or ctx ends.
// Without it a lost answer is ErrUnknownOutcome.
//
// Errors: ErrStreamNotFound, ErrUnknownOutcome, ErrTimeout, ErrClosed,
// *StreamError (the server's refusal, with its number), *SubjectError, *CodecError,
// *ValidationError, *PayloadError, *OptionError.
func PublishTo[T any](ctx context.Context, st *Stream, s Subject[T], v T, opts ...StoreOption) (*Ack, error) {
	if err := st.callable(ctx, "PublishTo"); err != nil {
		return nil, err
	}
	b := st.bus
	o, err := storeOptions(opts)
	if err != nil {
		return nil, b.refused(err)
	}
	m, err := encode(b.format, string(s), v, o)
	if err == nil {
		err = checkSize(&m, b.maxPayload())
	}
	if err == nil {
		err = st.takes(ctx, m.Subject)
	}
	if err != nil {
		return nil, b.refused(err)
	}
	return st.store(ctx, &m)
}

func (s *Stream) callable(ctx context.Context, call string) error {
	if s == nil {
		return &ArgumentError{Func: call, Arg: "stream", Reason: "is nil; did Stream or LookupStream fail?"}
	}
	return s.bus.callable(ctx, call)
}

// takes returns an error unless the stream stores subj.
func (s *Stream) takes(ctx context.Context, subj string) error {
	return s.stores(ctx, subj, "does not store it", func(c *content) bool { return c.takes(subj) })
}

// published says what can be done about an unknown outcome.
func published(e *StreamError, id string) error {
	if errors.Is(e.Err, ErrUnknownOutcome) {
		hint := "with MsgID it could be repeated safely"
		if id != "" {
			hint = fmt.Sprintf("it can be repeated safely with the same MsgID, %.64q, within the stream's Duplicates window", id)
		}
		e.Err = fmt.Errorf("%w; %s", e.Err, hint)
	}
	return e
}

func (s *Stream) store(ctx context.Context, m *outlet.Message) (*Ack, error) {
	ctx, done := s.bus.bound(ctx)
	ack, err := s.bus.outlet.Store(ctx, m)
	done()
	if err != nil {
		return nil, published(streamError(s.name, "publish", err), m.ID)
	}
	if ack.Stream != s.name {
		return nil, &StreamError{Stream: s.name, Op: "publish", Err: fmt.Errorf("stream %q stored the message instead: the subjects were moved, look the stream up again", ack.Stream)}
	}
	return &Ack{Stream: ack.Stream, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
}
