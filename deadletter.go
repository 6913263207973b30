package bus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/reader"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/wire"
)

// DeadLetter is a message that a consumer has given up.
type DeadLetter struct {
	RawMsg // the message, as the handler had it; Attempt is how many calls failed, 1 where it could not be decoded for one, and Deliveries is 0

	Durable string // the consumer that gave it up
	Cause   Cause
	Error   string    // the text of the last failure, one line of at most 1 KiB
	Died    time.Time // when it was given up

	// Reference says that the letter has no payload and no header of its own: with what
	// a letter adds they exceed what the server takes. They are in the stream still, at
	// Sequence, for as long as that keeps them. Of what a Bus publishes only messages
	// with about 60 KiB of headers are so large.
	Reference bool

	stream   *Stream
	position uint64 // in the stream of the dead letters
	place    sidestream.Address
}

// DeadFilter chooses dead letters of a stream. Each field that is set must fit; the
// zero value takes all.
type DeadFilter struct {
	Durable  string    // of this consumer
	Subject  string    // on subjects that match this pattern
	Cause    Cause     // that died of this
	Sequence uint64    // the message with this sequence in the stream
	Header   Header    // whose header has all these values, and more maybe; names in any spelling
	From, To time.Time // that died in this time: not before From, before To
	Match    func(*DeadLetter) bool
}

func (f *DeadFilter) check() error {
	var m optionErrors
	if f.Durable != "" && !streamName.MatchString(f.Durable) {
		m.addError(badDurable(f.Durable))
	}
	if f.Subject != "" {
		if err := checkPattern(f.Subject); err != nil {
			m.addError(err)
		}
	}
	if f.Cause != "" && !slices.Contains(causes, f.Cause) {
		m.addError(&OptionError{Option: "DeadFilter Cause", Value: fmt.Sprintf("%q", string(f.Cause)), Reason: fmt.Sprintf("is none; there are %q", causes)})
	}
	if !f.From.IsZero() && !f.To.IsZero() && f.To.Before(f.From) {
		m.addError(&OptionError{Option: "DeadFilter To", Value: f.To.Format(time.RFC3339Nano), Reason: "is before From, " + f.From.Format(time.RFC3339Nano) + ": no letter fits"})
	}
	return m.joined()
}

// pattern is the subjects on which letters lie that fit.
func (f *DeadFilter) pattern(stream string) string {
	if f.Durable == "" {
		return sidestream.Pattern(sidestream.Dead, stream)
	}
	return sidestream.DurablePattern(sidestream.Dead, stream, f.Durable)
}

func (f *DeadFilter) fits(l *DeadLetter) bool {
	switch {
	case f.Subject != "" && !subject.Matches(f.Subject, l.Subject),
		f.Cause != "" && f.Cause != l.Cause,
		f.Sequence != 0 && f.Sequence != l.Sequence,
		!f.From.IsZero() && l.Died.Before(f.From),
		!f.To.IsZero() && !l.Died.Before(f.To),
		!f.fitsHeader(l.Header):
		return false
	}
	return true
}

// matches asks Match, which may panic.
func (f *DeadFilter) matches(l *DeadLetter) (ok bool, err error) {
	if f.Match == nil {
		return true, nil
	}
	returned := false
	defer catch(&returned, &err)
	ok = f.Match(l)
	returned = true
	return ok, nil
}

func (f *DeadFilter) fitsHeader(h Header) bool {
	for key, wanted := range f.Header {
		var have []string
		for k, values := range h {
			if strings.EqualFold(k, key) {
				have = append(have, values...)
			}
		}
		if len(missing(wanted, have)) > 0 {
			return false
		}
	}
	return true
}

// byDurable reports whether f asks for nothing but a durable, or for all.
func (f *DeadFilter) byDurable() bool {
	return f.Subject == "" && f.Cause == "" && f.Sequence == 0 && len(f.Header) == 0 && f.From.IsZero() && f.To.IsZero() && f.Match == nil
}

// DeadLetters returns the dead letters of the stream that fit f, in the order in
// which they died, up to the last one there is when it begins. It changes nothing. An
// error ends it: *OptionError or *SubjectError about f, *PanicError when Match panics,
// *StreamError, ErrTimeout, ErrClosed.
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
	r, err := s.openDead(ctx, f.pattern(s.name), 1)
	if err != nil {
		yield(nil, err)
		return
	}
	if r == nil {
		return // nobody consumes the stream yet
	}
	defer r.Close()
	for {
		d, ok, err := r.Next(ctx)
		if err != nil {
			yield(nil, s.deadError(ctx, "read", err))
			return
		}
		if !ok {
			return
		}
		l := s.letterOf(&d)
		if l == nil || !f.fits(l) {
			continue
		}
		ok, err = f.matches(l)
		if err != nil {
			yield(nil, err)
			return
		}
		if ok && !yield(l, nil) {
			return
		}
	}
}

// openDead returns a reader of the stream of the dead letters; nil where there is none.
func (s *Stream) openDead(ctx context.Context, pattern string, from uint64) (*reader.Reader, error) {
	r := s.bus.reader(sidestream.DeadStream(s.name), pattern, &replayOptions{from: from})
	err := r.SetEnd(ctx)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, nil
	case err != nil:
		return nil, s.deadError(ctx, "look up", err)
	}
	return r, nil
}

// deadError is err, of an operation on the stream of the dead letters, for the caller.
func (s *Stream) deadError(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return &StreamError{Stream: sidestream.DeadStream(s.name), Op: op, Err: contextError(ctx)}
	}
	return streamError(sidestream.DeadStream(s.name), op, err)
}

// letterOf returns the letter that d holds, nil where it holds none.
func (s *Stream) letterOf(d *wire.Delivery) *DeadLetter {
	kind, place, ok := sidestream.ParseSubject(d.Subject)
	if !ok || kind != sidestream.Dead {
		return nil
	}
	c, err := sidestream.ParseCopy(d.Header, d.Data)
	if err != nil {
		return nil
	}
	raw := newRaw(&wire.In{Subject: c.Subject, Header: c.Header, Data: c.Data},
		&wire.Stored{Stream: c.Stream, Sequence: c.Sequence, Time: c.Time, Attempt: c.Attempts})
	return &DeadLetter{RawMsg: *raw, Durable: place.Durable, Cause: Cause(c.Cause), Error: c.Error, Died: d.Stored.Time,
		Reference: c.Reference, stream: s, position: d.Stored.Sequence, place: place}
}

// DeadCount returns how many dead letters of the stream fit f. Without a filter, or
// with that of a durable alone, the server counts them; else they are read. Errors
// are those of DeadLetters.
func (s *Stream) DeadCount(ctx context.Context, f DeadFilter) (int, error) {
	if err := s.callable(ctx, "DeadCount"); err != nil {
		return 0, err
	}
	if err := f.check(); err != nil {
		return 0, err
	}
	if f.byDurable() {
		if n, err := s.countDead(ctx, f.pattern(s.name)); !errors.Is(err, reader.ErrNoDirect) {
			return n, err
		}
	}
	return s.eachDead(ctx, "DeadCount", f, func(context.Context, *DeadLetter) error { return nil })
}

func (s *Stream) countDead(ctx context.Context, pattern string) (int, error) {
	r, err := s.openDead(ctx, pattern, 1)
	if r == nil {
		return 0, err
	}
	defer r.Close()
	n, err := r.Count(ctx, 1)
	if err != nil {
		return 0, s.deadError(ctx, "count", err)
	}
	return int(n), nil
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

// discard removes l, unless somebody else has, or a newer letter took its place.
func (s *Stream) discard(ctx context.Context, l *DeadLetter) error {
	name := sidestream.DeadStream(s.name)
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	st, err := s.bus.core.JetStream.Stream(ctx, name)
	if err == nil {
		err = remove(ctx, st, l.position)
	}
	if err != nil {
		return streamError(name, "discard", err)
	}
	return nil
}

// remove removes a message of st, unless it is gone already. The refusal does not say
// which of the two it is.
func remove(ctx context.Context, st jetstream.Stream, sequence uint64) error {
	err := st.DeleteMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, gone := st.GetMsg(ctx, sequence); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return nil
		}
	}
	return err
}

// foreignStream is the error of Consume where a stream of the program has the name of a
// side stream.
func foreignStream(e *sidestream.ForeignStreamError) error {
	conflict := &StreamConflictError{Stream: e.Side, Fields: []FieldChange{{Field: "Subjects", Have: e.Have, Want: e.Want}}}
	return &StreamError{Stream: e.Stream, Op: "consume", Err: fmt.Errorf("%w; the library keeps what consumers of %q cannot handle in a stream with this name, and this one is somebody else's: rename one of the two", conflict, e.Stream)}
}
