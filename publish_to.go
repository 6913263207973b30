package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/internal/wire"
)

// Ack is the acknowledgement of a stored message, or of a batch.
type Ack struct {
	Stream   string
	Sequence uint64 // of the message in the stream, from 1; for a batch, of its last message
	First    uint64 // for a batch, the sequence of its first message; the others follow without gaps. Else 0

	// Duplicate reports that the stream had the message with this MsgID already, at
	// Sequence: from an earlier call, or from an earlier attempt of this call whose answer
	// was lost or took more than 2 s.
	Duplicate bool
}

// PublishTo stores v in the stream st and waits for the acknowledgement. nil means that the
// message is stored, as safely as the storage of the stream and WithSync provide. s must be
// one of the subjects of the stream.
//
// With MsgID or AutoID the stream stores the message once within its Duplicates window. Then
// PublishTo sends it again when the answer is lost, until the outcome is known or ctx ends.
// Without them a lost answer is ErrUnknownOutcome. So it is if the server restarted meanwhile
// and may have forgotten the ID: see MsgID.
//
// Errors: ErrStreamNotFound, ErrUnknownOutcome, ErrTimeout, ErrClosed, *ConflictError,
// *UnsupportedError, *StreamError (the server's refusal, with its number), *SubjectError,
// *CodecError, *ValidationError, *PayloadError, *OptionError.
func PublishTo[T any](ctx context.Context, st *Stream, s Subject[T], v T, opts ...StoreOption) (*Ack, error) {
	var m outlet.Message
	expect, err := prepareStore(ctx, st, "PublishTo", &m, s, v, opts)
	if err != nil {
		return nil, err
	}
	return st.store(ctx, &m, expect)
}

// prepareStore fills m, which is empty, for a PublishTo or PublishToAsync, and checks that
// the stream can store it. It returns what the message expects, or nil.
func prepareStore[T any](ctx context.Context, st *Stream, call string, m *outlet.Message, s Subject[T], v T, opts []StoreOption) (*outlet.Expectation, error) {
	if err := st.storable(ctx, call); err != nil {
		return nil, err
	}
	o, err := storeOptions(opts)
	if err == nil {
		err = encode(m, st.bus.format, string(s), v, o)
	}
	if err == nil {
		m.Stream = st.name
		err = st.admit(ctx, m, o.expected())
	}
	if err != nil {
		return nil, st.bus.refused(err)
	}
	return o.expected(), nil
}

// expected returns the message's expectation, or nil.
func (o *sendOptions) expected() *outlet.Expectation {
	if o == nil {
		return nil
	}
	return o.expect
}

// admit checks the size of m, whether the stream stores its subject and the subjects of its
// expectation, and whether the server is new enough for the options of m.
func (s *Stream) admit(ctx context.Context, m *outlet.Message, expect *outlet.Expectation) error {
	if err := s.bus.core.Outlet.CheckSize(m); err != nil {
		return payloadError(err)
	}
	if err := s.checkStores(ctx, m.Subject); err != nil {
		return err
	}
	if len(m.Header[wire.HeaderNatsTTL]) > 0 {
		if err := s.bus.checkServer(serverversion.TTL); err != nil {
			return err
		}
	}
	if expect == nil || expect.Filter == "" {
		return nil
	}
	if err := s.bus.checkServer(serverversion.ExpectLastSequenceOf); err != nil {
		return err
	}
	return s.checkMayHave(ctx, expect.Filter)
}

// published says what can be done about an unknown outcome.
func published(e *StreamError, id string) error {
	if errors.Is(e.Err, ErrUnknownOutcome) {
		hint := "with MsgID or AutoID it could be repeated safely"
		switch {
		case errors.Is(e.Err, outlet.ErrForgotten):
			hint = "look for its effect before you publish it again"
		case id != "":
			hint = fmt.Sprintf("it can be repeated safely with the same MsgID, %.64q, within the stream's Duplicates window", id)
		}
		e.Err = fmt.Errorf("%w; %s", e.Err, hint)
	}
	return e
}

func (s *Stream) store(ctx context.Context, m *outlet.Message, expect *outlet.Expectation) (*Ack, error) {
	ctx, done := s.bus.core.Bound(ctx)
	defer done()
	ack, err := s.bus.core.Outlet.Store(ctx, m)
	if lost := s.checkKept("PublishTo", 0, err); lost != nil {
		return nil, lost
	}
	return s.result(ctx, m, expect, ack, err)
}

// result makes what the outlet said of m into what its caller gets.
func (s *Stream) result(ctx context.Context, m *outlet.Message, expect *outlet.Expectation, ack outlet.Ack, err error) (*Ack, error) {
	if err != nil {
		ack, err = s.bus.core.Outlet.ResolveConflict(ctx, s.name, m, expect, err)
	}
	if err != nil {
		return nil, s.publishError(err, m.ID)
	}
	return s.ack(ack)
}

// ack makes the public acknowledgement.
func (s *Stream) ack(ack outlet.Ack) (*Ack, error) {
	if ack.Stream != s.name {
		return nil, &StreamError{Stream: s.name, Op: "publish", Err: fmt.Errorf("stream %q stored the message instead: the subjects were moved, look the stream up again", ack.Stream)}
	}
	return &Ack{Stream: ack.Stream, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
}

// The server's numbers for features that a stream does not have.
var featureCodes = map[int]string{jserr.MessageTTLDisabled: "MessageTTL", jserr.AtomicBatchDisabled: "AtomicBatches"}

// publishError turns an error of internal/outlet, about storing a message with the ID in s,
// into the public one.
func (s *Stream) publishError(err error, id string) error {
	if known := s.refusal(err); known != nil {
		if !errors.Is(err, outlet.ErrUnknown) {
			return known
		}
		err = fmt.Errorf("%w: %w", outlet.ErrUnknown, known)
	}
	if jserr.IsFull(err) {
		s.bus.capacity.Refused(err)
		if use, ok := s.bus.fullest(); ok {
			err = fmt.Errorf("%w: %s", err, use)
		}
	}
	e := streamError(s.name, "publish", err)
	if feature := featureCodes[e.ErrorCode]; feature != "" {
		return &UnsupportedError{Call: "PublishTo", Stream: s.name, Fields: []string{feature}, Err: e}
	}
	return published(e, id)
}

// refusal returns the *ConflictError or *ItemError for what err wraps, or nil.
func (s *Stream) refusal(err error) error {
	if item, ok := errors.AsType[*outlet.ItemError](err); ok {
		reason := s.refusal(item.Err)
		if reason == nil {
			reason = payloadError(item.Err)
		}
		return &ItemError{item.Index, reason}
	}
	c, ok := errors.AsType[*outlet.ConflictError](err)
	if !ok {
		return nil
	}
	e := &ConflictError{Stream: s.name, Subject: c.Filter, Expected: c.Expected, Actual: c.Actual, MsgID: c.MsgID}
	if c.Err != nil {
		e.err = streamError(s.name, "publish", c.Err)
	}
	return e
}

// storeOption is an option of a message that is stored.
type storeOption func(*sendOptions)

func (f storeOption) onStore(o *sendOptions) { f(o) }

// AutoID gives the message a random ID, so that it can be sent again when the answer is lost.
// A program that restarts and publishes the same message again gets another ID, so use MsgID
// if the message has an ID of its own. AutoID changes nothing if there is a MsgID too.
func AutoID() StoreOption {
	return storeOption(func(o *sendOptions) { o.autoID = true })
}

// TTL lets the stream remove the message after d: whole seconds, from 1 s to 100 years. The limits of
// the stream may remove it earlier. The stream must be declared with StreamConfig.MessageTTL,
// otherwise the error is an *UnsupportedError.
func TTL(d time.Duration) StoreOption {
	return storeOption(func(o *sendOptions) {
		if d < time.Second || d%time.Second != 0 || d > farthest {
			o.addError(&OptionError{Option: "TTL", Value: d.String(), Reason: "must be whole seconds, at least 1s, and at most 100 years; leave it out for a message that stays"})
			return
		}
		o.set(wire.HeaderNatsTTL, strconv.FormatInt(int64(d/time.Second), 10)+"s")
	})
}

// ExpectLastSequence stores the message only if n is the sequence of the last message of the
// stream; 0 if the stream never had one. Otherwise the error is a *ConflictError. A message
// can have one expectation.
func ExpectLastSequence(n uint64) StoreOption {
	return storeOption(func(o *sendOptions) {
		o.expects(outlet.Expectation{Whole: true, Sequence: n})
		o.set(wire.HeaderNatsExpectedLastSequence, strconv.FormatUint(n, 10))
	})
}

// ExpectLastSubjectSequence stores the message only if n is the sequence of the last message
// in the stream on the same subject; 0 if there is none. Otherwise the error is a
// *ConflictError. A message can have one expectation.
func ExpectLastSubjectSequence(n uint64) StoreOption {
	return storeOption(func(o *sendOptions) {
		o.expects(outlet.Expectation{Sequence: n})
		o.set(wire.HeaderNatsExpectedLastSubjectSequence, strconv.FormatUint(n, 10))
	})
}

// ExpectLastSequenceOf is like ExpectLastSubjectSequence, for the last message on all subjects
// that filter matches. For example, "shop.orders.17.>" matches all events of one order.
func ExpectLastSequenceOf(filter string, n uint64) StoreOption {
	return storeOption(func(o *sendOptions) {
		if err := checkPattern(filter); err != nil {
			o.addError(err)
			return
		}
		o.expects(outlet.Expectation{Filter: filter, Sequence: n})
		o.set(wire.HeaderNatsExpectedLastSubjectSequence, strconv.FormatUint(n, 10))
		o.set(wire.HeaderNatsExpectedLastSubjectSequenceSubject, filter)
	})
}

// expects sets the expectation of the message. A second one is an error, because the server
// would not say which one was not met.
func (o *sendOptions) expects(e outlet.Expectation) {
	if o.expect != nil {
		o.addError(expectationError(&e, "the message has an expectation already, "+expectationOption(o.expect)+"; give one"))
		return
	}
	o.expect = &e
}

// expectationError is the error for an expectation that a call cannot have.
func expectationError(e *outlet.Expectation, reason string) error {
	return &OptionError{Option: expectationOption(e), Value: fmt.Sprint(e.Sequence), Reason: reason}
}

// expectationOption names the option that made e.
func expectationOption(e *outlet.Expectation) string {
	switch {
	case e.Whole:
		return "ExpectLastSequence"
	case e.Filter != "":
		return "ExpectLastSequenceOf"
	}
	return "ExpectLastSubjectSequence"
}
