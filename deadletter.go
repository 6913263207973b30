package bus

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dead"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/wire"
)

// DeadLetter is a message that a consumer has given up.
type DeadLetter struct {
	RawMsg // the message, as the handler had it; Attempt is how many calls failed

	Durable string // the consumer that gave it up
	Cause   Cause
	Error   string    // the text of the last failure, one line of at most 1 KiB
	Died    time.Time // when it was given up

	position uint64 // in the stream of the dead letters
	place    dead.Place
}

// DeadFilter chooses dead letters of a stream. Each field that is set must fit; the
// zero value takes all.
type DeadFilter struct {
	Durable  string    // of this consumer
	Subject  string    // on subjects that match this pattern
	Cause    Cause     // that died of this
	Sequence uint64    // the message with this sequence in the stream
	From, To time.Time // that died in this time: not before From, before To
	Match    func(*DeadLetter) bool
}

func (f *DeadFilter) check() error {
	if f.Durable != "" && !streamName.MatchString(f.Durable) {
		return badDurable(f.Durable)
	}
	if f.Subject != "" {
		return checkPattern(f.Subject)
	}
	return nil
}

// pattern is the subjects on which letters lie that fit.
func (f *DeadFilter) pattern(stream string) string {
	if f.Durable == "" {
		return dead.SubjectsOf(dead.Dead, stream)
	}
	return dead.SubjectsOfDurable(dead.Dead, stream, f.Durable)
}

func (f *DeadFilter) fits(l *DeadLetter) bool {
	switch {
	case f.Subject != "" && !subject.Matches(f.Subject, l.Subject),
		f.Cause != "" && f.Cause != l.Cause,
		f.Sequence != 0 && f.Sequence != l.Sequence,
		!f.From.IsZero() && l.Died.Before(f.From),
		!f.To.IsZero() && !l.Died.Before(f.To):
		return false
	}
	return f.Match == nil || f.Match(l)
}

// DeadLetters returns the dead letters of the stream that fit f, in the order in
// which they died, up to the last one there is when it begins. It changes nothing. An
// error ends it: *OptionError or *SubjectError about f, *StreamError, ErrTimeout,
// ErrClosed.
func (s *Stream) DeadLetters(ctx context.Context, f DeadFilter) iter.Seq2[*DeadLetter, error] {
	return func(yield func(*DeadLetter, error) bool) {
		err := s.callable(ctx, "DeadLetters")
		if err == nil {
			err = f.check()
		}
		if err != nil {
			yield(nil, err)
			return
		}
		s.deadLetters(ctx, f, yield)
	}
}

func (s *Stream) deadLetters(ctx context.Context, f DeadFilter, yield func(*DeadLetter, error) bool) {
	name := dead.StreamOf(s.name)
	st, last, err := s.lookBeside(ctx, name)
	if errors.Is(err, ErrStreamNotFound) {
		return // nobody consumes the stream yet
	}
	for next := uint64(1); err == nil && next <= last; {
		var l *DeadLetter
		l, next, err = s.deadLetter(ctx, st, f.pattern(s.name), next)
		if err != nil || l == nil || l.position > last {
			break
		}
		if f.fits(l) && !yield(l, nil) {
			return
		}
	}
	if err != nil {
		yield(nil, err)
	}
}

// lookBeside returns a stream beside s and its last sequence.
func (s *Stream) lookBeside(ctx context.Context, name string) (jetstream.Stream, uint64, error) {
	ctx, cancel := s.bus.cfg.withTimeout(ctx)
	defer cancel()
	st, err := s.bus.js.Stream(ctx, name)
	if err != nil {
		return nil, 0, streamError(name, "look up", err)
	}
	return st, st.CachedInfo().State.LastSeq, nil
}

// deadLetter returns the first letter on the pattern from a position on, nil where
// there is none, and the position after it. What is no letter is passed over.
func (s *Stream) deadLetter(ctx context.Context, st jetstream.Stream, pattern string, from uint64) (*DeadLetter, uint64, error) {
	for {
		one, cancel := s.bus.cfg.withTimeout(ctx)
		m, err := st.GetMsg(one, from, jetstream.WithGetMsgSubject(pattern))
		cancel()
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, from, nil
		}
		if err != nil {
			return nil, from, streamError(dead.StreamOf(s.name), "read", err)
		}
		from = m.Sequence + 1
		if l := letterOf(m); l != nil {
			return l, from, nil
		}
	}
}

// letterOf returns the letter that m holds, nil where it holds none.
func letterOf(m *jetstream.RawStreamMsg) *DeadLetter {
	kind, place, ok := dead.ParseSubject(m.Subject)
	if !ok || kind != dead.Dead {
		return nil
	}
	c, err := dead.Parse(wire.Header(m.Header), m.Data)
	if err != nil {
		return nil
	}
	raw := newRaw(&wire.Delivery{Subject: c.Subject, Header: c.Header, Data: c.Data,
		Stored: &wire.Stored{Stream: c.Stream, Sequence: c.Sequence, Time: c.Time, Attempt: c.Attempts}})
	return &DeadLetter{RawMsg: *raw, Durable: place.Durable, Cause: Cause(c.Cause), Error: c.Error, Died: m.Time,
		position: m.Sequence, place: place}
}

// Redrive gives the dead letters that fit f to the consumers that gave them up, and
// to no other: each is handled once more as if it came for the first time, in the
// order of the stream. It returns how many it gave back. One that fails again becomes
// a dead letter again. Errors are those of DeadLetters; what was given back until
// then stays so.
func (s *Stream) Redrive(ctx context.Context, f DeadFilter) (int, error) {
	type letter struct{ sequence, position uint64 }
	var all []letter // without payloads: there may be many
	_, err := s.eachDead(ctx, "Redrive", f, func(_ context.Context, l *DeadLetter) error {
		all = append(all, letter{l.Sequence, l.position})
		return nil
	})
	if err != nil || len(all) == 0 {
		return 0, err
	}
	st, _, err := s.lookBeside(ctx, dead.StreamOf(s.name))
	if err != nil {
		return 0, err
	}
	slices.SortFunc(all, func(a, b letter) int {
		return cmp.Or(cmp.Compare(a.sequence, b.sequence), cmp.Compare(a.position, b.position))
	})
	for n, l := range all {
		if err := s.redriveAt(ctx, st, l.position); err != nil {
			return n, err
		}
	}
	return len(all), nil
}

// redriveAt gives the letter at a position back, unless somebody else has.
func (s *Stream) redriveAt(ctx context.Context, st jetstream.Stream, position uint64) error {
	one, cancel := s.bus.cfg.withTimeout(ctx)
	m, err := st.GetMsg(one, position)
	cancel()
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil
	case err != nil:
		return streamError(dead.StreamOf(s.name), "read", err)
	}
	if l := letterOf(m); l != nil {
		return s.redrive(ctx, l)
	}
	return nil
}

// Discard removes the dead letters that fit f for good. It returns how many it
// removed. Errors are those of DeadLetters.
func (s *Stream) Discard(ctx context.Context, f DeadFilter) (int, error) {
	return s.eachDead(ctx, "Discard", f, s.discard)
}

func (s *Stream) eachDead(ctx context.Context, call string, f DeadFilter, do func(context.Context, *DeadLetter) error) (n int, err error) {
	if err := s.callable(ctx, call); err != nil {
		return 0, err
	}
	for l, err := range s.DeadLetters(ctx, f) {
		if err == nil {
			err = do(ctx, l)
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// redrive puts l before its consumer, then removes it: a crash in between does no
// harm, as it is put only where it is not yet.
func (s *Stream) redrive(ctx context.Context, l *DeadLetter) error {
	a := &aside{bus: s.bus, stream: s.name, durable: l.Durable, age: l.place.Incarnation}
	c := &dead.Copy{Subject: l.Subject, Header: wire.Header(l.Header), Data: l.Data, Stream: l.Stream, Sequence: l.Sequence, Time: l.Time}
	if err := a.put(ctx, dead.Retry, c.Out(l.place.Subject(dead.Retry))); err != nil {
		return streamError(dead.RetryStreamOf(s.name), "redrive", err)
	}
	return s.discard(ctx, l)
}

func (s *Stream) discard(ctx context.Context, l *DeadLetter) error {
	name := dead.StreamOf(s.name)
	ctx, cancel := s.bus.cfg.withTimeout(ctx)
	defer cancel()
	st, err := s.bus.js.Stream(ctx, name)
	if err == nil {
		err = remove(ctx, st, l.position)
	}
	if err != nil {
		return streamError(name, "discard", err)
	}
	return nil
}
