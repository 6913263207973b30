package bus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/omnibus-go/bus/internal/deadletter"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// DeadLetter is a message that a consumer could not handle and does not try again.
type DeadLetter struct {
	// RawMsg is as the handler got it, except that Attempt is the number of handler calls that
	// failed. A message that cannot be decoded, is invalid or has no handler in a Mux counts as one.
	// It is 0 for CauseCrashLoop and CauseBehind without such a call: one that ended with its process
	// does not count. Deliveries is 0.
	RawMsg

	Durable string // the consumer that could not handle it
	Cause   Cause
	Error   string    // the text of the last failure, one line of at most 1 KiB
	DeadAt  time.Time // when the dead letter was stored

	// Reference says that the dead letter has no payload and no header of its own, because
	// a copy would exceed the limits of the server. They are in the stream, at Sequence, as
	// long as the stream keeps the message. Among the messages that a Bus publishes, only
	// those with about 60 KiB of headers are so large.
	Reference bool

	stream  *Stream
	message *deadletter.Message
}

// DeadFilter chooses dead letters of a stream. Each field that is set must match; the zero
// value chooses all.
type DeadFilter struct {
	Durable  string    // of this consumer
	Subject  string    // on subjects that match this pattern
	Cause    Cause     // with this cause
	Sequence uint64    // of the message with this sequence in the stream
	Header   Header    // with all these header values; names in any spelling
	From, To time.Time // DeadAt is not before From, and before To
	Match    func(*DeadLetter) bool

	// Rate is how many dead letters Redrive returns each second, at even intervals, so that
	// what failed under load does not cause the same load again. It may be less than one:
	// 0.1 is one in ten seconds. Zero is no limit. Other calls ignore it.
	Rate float64
}

// check returns all that is wrong with f.
func (f *DeadFilter) check() error {
	var m optionErrors
	if f.Durable != "" && !streamName.MatchString(f.Durable) {
		m.addError(badName("DeadFilter Durable", f.Durable))
	}
	if f.Subject != "" {
		if err := checkPattern(f.Subject); err != nil {
			m.addError(err)
		}
	}
	if f.Cause != "" && !slices.Contains(causes, f.Cause) {
		m.addError(&OptionError{Option: "DeadFilter Cause", Value: fmt.Sprintf("%q", string(f.Cause)), Reason: fmt.Sprintf("does not exist; use one of %q", causes)})
	}
	if !f.From.IsZero() && !f.To.IsZero() && f.To.Before(f.From) {
		m.addError(&OptionError{Option: "DeadFilter To", Value: f.To.Format(time.RFC3339Nano), Reason: "is before From, " + f.From.Format(time.RFC3339Nano) + ": no dead letter matches"})
	}
	if f.Rate != 0 && !(f.Rate >= minRate && f.Rate <= maxRate) {
		m.addError(&OptionError{Option: "DeadFilter Rate", Value: fmt.Sprint(f.Rate), Reason: fmt.Sprintf("must be 0 for no limit, or from %g to %g dead letters a second", minRate, maxRate)})
	}
	return m.joined()
}

// The time between two dead letters is a time.Duration: 1 ns at least, and 292 years at most.
const minRate, maxRate = 1.1e-10, 1e9

// pause returns the time between two dead letters of Redrive.
func (f *DeadFilter) pause() time.Duration {
	if f.Rate == 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / f.Rate)
}

// filter returns f for the dead-letter queue of s.
func (f *DeadFilter) filter(s *Stream) deadletter.Filter {
	own := deadletter.Filter{Durable: f.Durable, Subject: f.Subject, Cause: string(f.Cause), Sequence: f.Sequence,
		Header: f.Header, From: f.From, To: f.To}
	if f.Match != nil {
		own.Match = func(m *deadletter.Message) (bool, error) { return f.matches(s.deadLetter(m)) }
	}
	return own
}

// matches calls Match. A panic of it becomes a *PanicError.
func (f *DeadFilter) matches(l *DeadLetter) (ok bool, err error) {
	defer catch("DeadFilter.Match", &err)
	return f.Match(l), nil
}

// deadLetter returns m as a *DeadLetter of s.
func (s *Stream) deadLetter(m *deadletter.Message) *DeadLetter {
	raw := newRaw(&wire.In{Subject: m.Subject, Header: m.Header, Data: m.Data},
		&wire.Stored{Stream: m.Stream, Sequence: m.Sequence, Time: m.Time, Attempt: m.Attempts})
	return &DeadLetter{RawMsg: *raw, Durable: m.Address.Durable, Cause: Cause(m.Cause), Error: m.Error, DeadAt: m.DeadAt,
		Reference: m.Reference, stream: s, message: m}
}

// DeadLetters returns the dead letters of the stream that match f, in the order in which
// they were stored, up to the last one that exists when the loop begins. It changes
// nothing. An error ends it: *OptionError or *SubjectError about f, *PanicError if Match
// panics, *StreamError, ErrTimeout, ErrClosed.
func (s *Stream) DeadLetters(ctx context.Context, f DeadFilter) iter.Seq2[*DeadLetter, error] {
	return func(yield func(*DeadLetter, error) bool) {
		q, err := s.deadQueue(ctx, "DeadLetters", &f)
		if err != nil {
			yield(nil, err)
			return
		}
		for m, err := range q.All(ctx, f.filter(s)) {
			if err != nil {
				yield(nil, s.deadError(ctx, "DeadLetters", err))
				return
			}
			if !yield(s.deadLetter(m), nil) {
				return
			}
		}
	}
}

// DeadCount returns how many dead letters of the stream match f. If f is zero or has only a
// Durable, the server counts them. Otherwise DeadCount reads them all. In a cluster a replica may
// count that does not have the latest change yet. Errors are those of DeadLetters.
func (s *Stream) DeadCount(ctx context.Context, f DeadFilter) (int, error) {
	q, err := s.deadQueue(ctx, "DeadCount", &f)
	if err != nil {
		return 0, err
	}
	n, err := q.Count(ctx, f.filter(s))
	return n, s.deadError(ctx, "DeadCount", err)
}

// Discard removes the dead letters that match f for good. It returns how many it removed,
// also with an error. Errors are those of DeadLetters, and a *switchover.StreamMovedError if a switch
// home has fenced the dead letters.
func (s *Stream) Discard(ctx context.Context, f DeadFilter) (int, error) {
	q, err := s.deadQueueHere(ctx, "Discard", &f)
	if err != nil {
		return 0, err
	}
	n, err := q.Discard(ctx, f.filter(s))
	return n, s.deadError(ctx, "Discard", err)
}

// deadQueue checks a call and its filter, and returns the dead-letter queue of s.
func (s *Stream) deadQueue(ctx context.Context, call string, f *DeadFilter) (*deadletter.Queue, error) {
	if err := s.ready(ctx, call); err != nil {
		return nil, err
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return deadletter.Of(s.bus.core, s.name), nil
}

// deadQueueHere is deadQueue for a call that removes dead letters. It returns a
// *switchover.StreamMovedError if a switch home has fenced them.
func (s *Stream) deadQueueHere(ctx context.Context, call string, f *DeadFilter) (*deadletter.Queue, error) {
	q, err := s.deadQueue(ctx, call, f)
	if err != nil {
		return nil, err
	}
	done, err := s.enter(ctx, call) // a switch of this bus fences them only for itself
	if err != nil {
		return nil, err
	}
	defer done()
	return q, s.deadError(ctx, call, s.checkDeadHere(ctx))
}

// checkDeadHere returns an error if a switch home has fenced the dead letters.
func (s *Stream) checkDeadHere(ctx context.Context) error {
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	return sidestream.CheckHere(ctx, s.bus.core, sidestream.DeadStream(s.name))
}

// deadError turns an error of the dead-letter queue into ours.
func (s *Stream) deadError(ctx context.Context, call string, err error) error {
	if err == nil {
		return nil
	}
	if gone, ok := errors.AsType[*deadletter.NoConsumerError](err); ok {
		return &ConsumerError{Op: "redrive", Stream: gone.Stream, Durable: gone.Durable}
	}
	failed, ok := errors.AsType[*jserr.Error](err)
	switch {
	case ok && ctx.Err() != nil:
		return &StreamError{Stream: failed.Stream, Op: failed.Op, Err: contextError(ctx)}
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
		return &opError{call, contextError(ctx)}
	}
	return translate(err)
}
