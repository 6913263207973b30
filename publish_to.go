package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nuid"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// Ack says where a message was stored.
type Ack struct {
	Stream    string
	Sequence  uint64 // from 1; of a batch that of its last message
	First     uint64 // of a batch the sequence of its first message, which the others follow without gaps; else 0
	Duplicate bool   // a message with this MsgID was there already, at Sequence: one of an earlier call, or of an earlier try of this one whose answer was lost or took more than 2s
}

// PublishTo stores v in the stream st and waits until that is done: nil means
// stored, as safely as the stream's storage and WithSync say. s must be one of
// the stream's subjects.
//
// With MsgID or AutoID the same message is stored once within the stream's
// Duplicates window, and PublishTo repeats itself until it knows the outcome or ctx
// ends. Without them a lost answer is ErrUnknownOutcome.
//
// Errors: ErrStreamNotFound, ErrUnknownOutcome, ErrTimeout, ErrClosed,
// *ConflictError, *UnsupportedError, *StreamError (the server's refusal, with its
// number), *SubjectError, *CodecError, *ValidationError, *PayloadError, *OptionError.
func PublishTo[T any](ctx context.Context, st *Stream, s Subject[T], v T, opts ...StoreOption) (*Ack, error) {
	var m outlet.Message
	expect, err := prepareStore(ctx, st, "PublishTo", &m, s, v, opts)
	if err != nil {
		return nil, err
	}
	return st.store(ctx, &m, expect)
}

// prepareStore makes m, which is empty, the message of a PublishTo, and refuses what
// cannot be stored.
func prepareStore[T any](ctx context.Context, st *Stream, call string, m *outlet.Message, s Subject[T], v T, opts []StoreOption) (*expectation, error) {
	if err := st.callable(ctx, call); err != nil {
		return nil, err
	}
	o, err := storeOptions(opts)
	if err == nil {
		err = encode(m, st.bus.format, string(s), v, o)
	}
	if err == nil {
		err = st.admit(ctx, m, o.expected())
	}
	if err != nil {
		return nil, st.bus.refused(err)
	}
	return o.expected(), nil
}

// expected returns the message's expectation, or nil.
func (o *sendOptions) expected() *expectation {
	if o == nil {
		return nil
	}
	return o.expect
}

func (s *Stream) callable(ctx context.Context, call string) error {
	if s == nil {
		return badArgument(call, "stream", "is nil; did Stream or LookupStream fail?")
	}
	return s.bus.callable(ctx, call)
}

// admit looks at m's size, and at whether the stream stores its subject and can
// have messages of what is expected.
func (s *Stream) admit(ctx context.Context, m *outlet.Message, expect *expectation) error {
	if err := s.bus.core.Outlet.CheckSize(m); err != nil {
		return payloadError(err)
	}
	if err := s.checkStores(ctx, m.Subject); err != nil {
		return err
	}
	if expect == nil || expect.filter == "" {
		return nil
	}
	return s.checkMayHave(ctx, expect.filter)
}

// published says what can be done about an unknown outcome.
func published(e *StreamError, id string) error {
	if errors.Is(e.Err, ErrUnknownOutcome) {
		hint := "with MsgID or AutoID it could be repeated safely"
		if id != "" {
			hint = fmt.Sprintf("it can be repeated safely with the same MsgID, %.64q, within the stream's Duplicates window", id)
		}
		e.Err = fmt.Errorf("%w; %s", e.Err, hint)
	}
	return e
}

func (s *Stream) store(ctx context.Context, m *outlet.Message, expect *expectation) (*Ack, error) {
	ctx, done := s.bus.core.Bound(ctx)
	defer done()
	ack, err := s.bus.core.Outlet.Store(ctx, m)
	return s.result(ctx, m, expect, ack, err)
}

// result makes what the outlet said of m into what its caller gets.
func (s *Stream) result(ctx context.Context, m *outlet.Message, expect *expectation, ack outlet.Ack, err error) (*Ack, error) {
	if err != nil && expect != nil && isConflict(err) {
		ack, err = s.conflict(ctx, m, expect, err)
	}
	if err != nil {
		return nil, s.publishError(err, m.ID)
	}
	if ack.Stream != s.name {
		return nil, &StreamError{Stream: s.name, Op: "publish", Err: fmt.Errorf("stream %q stored the message instead: the subjects were moved, look the stream up again", ack.Stream)}
	}
	return &Ack{Stream: ack.Stream, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
}

// The server's numbers for features that a stream does not have.
var featureCodes = map[int]string{jserr.MessageTTLDisabled: "MessageTTL", jserr.AtomicBatchDisabled: "AtomicBatches"}

// publishError is err, of storing a message with the ID, as one of ours.
func (s *Stream) publishError(err error, id string) error {
	if conflict, ok := errors.AsType[*ConflictError](err); ok && !errors.Is(err, outlet.ErrUnknown) {
		return conflict
	}
	e := streamError(s.name, "publish", err)
	if feature := featureCodes[e.ErrorCode]; feature != "" {
		return &UnsupportedError{Call: "PublishTo", Stream: s.name, Fields: []string{feature}, Err: e}
	}
	return published(e, id)
}

type storeOption func(*sendOptions)

func (f storeOption) onStore(o *sendOptions) { f(o) }

// AutoID gives the message an identifier of its own, so that it can be sent again
// when the answer is lost. That is all: a program that is killed and publishes again
// gets another identifier, so use MsgID where the message has one. With MsgID it
// changes nothing.
func AutoID() StoreOption {
	return storeOption(func(o *sendOptions) { o.autoID = true })
}

// fillID makes an identifier where AutoID asks for one.
func (o *sendOptions) fillID() {
	if o.autoID && o.id == "" {
		o.id = nuid.Next()
		o.set(wire.HeaderNatsMsgID, o.id)
	}
}

// TTL has the stream remove the message after d, whole seconds from one on. The
// stream must be declared with StreamConfig.MessageTTL, else it is a
// *UnsupportedError. The stream's own limits may remove it earlier.
func TTL(d time.Duration) StoreOption {
	return storeOption(func(o *sendOptions) {
		if d < time.Second || d%time.Second != 0 {
			o.addError(&OptionError{Option: "TTL", Value: d.String(), Reason: "must be whole seconds, at least 1s"})
			return
		}
		o.set(wire.HeaderNatsTTL, strconv.FormatInt(int64(d/time.Second), 10)+"s")
	})
}

// expectation is what must be the last sequence for a message to be stored.
type expectation struct {
	option   string
	whole    bool   // of the stream
	filter   string // of the subjects that it matches; empty: of the message's own
	sequence uint64
}

// of is the subject or filter whose last sequence is expected, for a message on
// subj; empty for the whole stream.
func (e *expectation) of(subj string) string {
	if e.whole || e.filter != "" {
		return e.filter
	}
	return subj
}

// ExpectLastSequence stores the message only if n is the sequence of the stream's
// last message, 0 for one that never had any. Otherwise it is a *ConflictError. A
// message has one expectation.
func ExpectLastSequence(n uint64) StoreOption {
	return storeOption(func(o *sendOptions) {
		o.expects(expectation{option: "ExpectLastSequence", whole: true, sequence: n})
		o.set(wire.HeaderNatsExpectedLastSequence, strconv.FormatUint(n, 10))
	})
}

// ExpectLastSubjectSequence stores the message only if n is the sequence, in the
// stream, of the last message on the same subject; 0 means that there is none.
// Otherwise it is a *ConflictError. A message has one expectation.
func ExpectLastSubjectSequence(n uint64) StoreOption {
	return storeOption(func(o *sendOptions) {
		o.expects(expectation{option: "ExpectLastSubjectSequence", sequence: n})
		o.set(wire.HeaderNatsExpectedLastSubjectSequence, strconv.FormatUint(n, 10))
	})
}

// ExpectLastSequenceOf is ExpectLastSubjectSequence for the last message on any
// subject that filter matches, as all events of one order: "shop.orders.17.>".
func ExpectLastSequenceOf(filter string, n uint64) StoreOption {
	return storeOption(func(o *sendOptions) {
		if err := checkPattern(filter); err != nil {
			o.addError(err)
			return
		}
		o.expects(expectation{option: "ExpectLastSequenceOf", filter: filter, sequence: n})
		o.set(wire.HeaderNatsExpectedLastSubjectSequence, strconv.FormatUint(n, 10))
		o.set(wire.HeaderNatsExpectedLastSubjectSequenceSubject, filter)
	})
}

// expects notes the message's expectation. With two the server would not say which
// was wrong.
func (o *sendOptions) expects(e expectation) {
	if o.expect != nil {
		o.addError(&OptionError{Option: e.option, Value: fmt.Sprint(e.sequence), Reason: "the message has an expectation already, " + o.expect.option + "; give one"})
		return
	}
	o.expect = &e
}
