package deadletter

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/reader"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/wire"
)

// Queue is the dead-letter queue of a stream. Safe for concurrent use. Errors of its
// methods are *jserr.Error, *NoConsumerError, the error of Filter.Match, and, while Redrive
// waits, the cause of the context.
type Queue struct {
	core   *core.Core
	stream string
}

// Of returns the dead-letter queue of a stream. It may have no dead letters yet.
func Of(c *core.Core, stream string) *Queue { return &Queue{core: c, stream: stream} }

// All returns the dead letters that match f, in the order in which they were stored, up to
// the last one there is when it begins. An error ends it.
func (q *Queue) All(ctx context.Context, f Filter) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		if err := q.each(ctx, &f, func(m *Message) (bool, error) { return yield(m, nil), nil }); err != nil {
			yield(nil, err)
		}
	}
}

// each calls fn for the dead letters that match f, until fn returns false or an error.
func (q *Queue) each(ctx context.Context, f *Filter, fn func(*Message) (bool, error)) error {
	r, err := q.open(ctx, f)
	if r == nil {
		return err
	}
	defer r.Close()
	for {
		d, ok, err := r.Next(ctx)
		if err != nil || !ok {
			return q.wrap("read", err)
		}
		m, ok := parse(&d)
		if !ok {
			continue
		}
		ok, err = f.matches(m)
		if ok {
			ok, err = fn(m)
			if !ok {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// open returns a reader of what f.pattern matches. It is nil if S-dead does not exist,
// because nobody has consumed the stream yet.
func (q *Queue) open(ctx context.Context, f *Filter) (*reader.Reader, error) {
	r := q.reader(sidestream.DeadStream(q.stream), f.pattern(q.stream), 1)
	err := r.SetEnd(ctx)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, nil
	case err != nil:
		return nil, q.wrap("look up", err)
	}
	return r, nil
}

// reader returns a reader of the messages of a stream that match a pattern.
func (q *Queue) reader(stream, pattern string, from uint64) *reader.Reader {
	return reader.New(q.core.Link, reader.Config{Stream: stream, Filter: pattern, From: from,
		Timeout: q.core.Timeout, Ended: q.core.Handlers.Done()})
}

// read returns the message of a stream with a sequence, if it matches a pattern. found is
// false if there is none.
func (q *Queue) read(ctx context.Context, stream, pattern string, sequence uint64) (d wire.Delivery, found bool, err error) {
	r := q.reader(stream, pattern, sequence)
	defer r.Close()
	d, ok, err := r.One(ctx)
	return d, ok && d.Stored.Sequence == sequence, jserr.Wrap(stream, "read", err)
}

// wrap returns err as an error of an operation on S-dead.
func (q *Queue) wrap(op string, err error) error {
	return jserr.Wrap(sidestream.DeadStream(q.stream), op, err)
}

// Count returns how many dead letters match f. The server counts them if f has no more
// than a durable. Else they are read.
func (q *Queue) Count(ctx context.Context, f Filter) (n int, err error) {
	if f.onlyDurable() {
		if n, err := q.countByServer(ctx, &f); !errors.Is(err, reader.ErrNoDirect) {
			return n, err
		}
	}
	err = q.each(ctx, &f, func(*Message) (bool, error) { n++; return true, nil })
	return n, err
}

func (q *Queue) countByServer(ctx context.Context, f *Filter) (int, error) {
	r, err := q.open(ctx, f)
	if r == nil {
		return 0, err
	}
	defer r.Close()
	n, err := r.Count(ctx, 1)
	return int(n), q.wrap("count", err)
}

// Discard removes the dead letters that match f, and returns how many.
func (q *Queue) Discard(ctx context.Context, f Filter) (n int, err error) {
	err = q.each(ctx, &f, func(m *Message) (bool, error) {
		if err := q.remove(ctx, m); err != nil {
			return false, err
		}
		n++
		return true, nil
	})
	return n, err
}

// remove removes m. It is no error if somebody else has, or if a newer dead letter of the
// same message has replaced m.
func (q *Queue) remove(ctx context.Context, m *Message) error {
	ctx, cancel := q.core.WithTimeout(ctx)
	defer cancel()
	st, err := q.core.JetStream.Stream(ctx, sidestream.DeadStream(q.stream))
	if err == nil {
		err = removeIfThere(ctx, st, m.Position)
	}
	return q.wrap("discard", err)
}

// removeIfThere removes a message of st. The server's refusal does not say whether the
// message is gone, so it is looked up then.
func removeIfThere(ctx context.Context, st jetstream.Stream, sequence uint64) error {
	err := st.DeleteMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, gone := st.GetMsg(ctx, sequence); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return nil
		}
	}
	return err
}

// Message is a dead letter.
type Message struct {
	*sidestream.Copy // of the message that failed

	Address  sidestream.Address // of that message, and of the durable that gave it up
	Position uint64             // sequence of the dead letter in S-dead
	DeadAt   time.Time          // when it was stored there
}

// parse returns the dead letter that d holds. ok is false if d is none.
func parse(d *wire.Delivery) (m *Message, ok bool) {
	kind, address, ok := sidestream.ParseSubject(d.Subject)
	if !ok || kind != sidestream.Dead {
		return nil, false
	}
	c, err := sidestream.ParseCopy(d.Header, d.Data)
	if err != nil {
		return nil, false
	}
	return &Message{Copy: c, Address: address, Position: d.Stored.Sequence, DeadAt: d.Stored.Time}, true
}

// redriven returns the copy that a redrive stores.
func (m *Message) redriven() *sidestream.Copy {
	return &sidestream.Copy{Subject: m.Subject, Header: m.Header, Data: m.Data, Stream: m.Stream,
		Sequence: m.Sequence, Time: m.Time, DeadLetter: m.Position}
}

// Filter chooses dead letters. Each field that is set must match; the zero value matches
// all.
type Filter struct {
	Durable  string
	Subject  string // a pattern
	Cause    string
	Sequence uint64              // of the message in its stream
	Header   map[string][]string // the message has all these values; names in any spelling
	From, To time.Time           // DeadAt is not before From and before To

	Match func(*Message) (bool, error) // asked last; its error ends the operation
}

// pattern returns the pattern of the subjects that may match.
func (f *Filter) pattern(stream string) string {
	if f.Durable == "" {
		return sidestream.Pattern(sidestream.Dead, stream)
	}
	return sidestream.DurablePattern(sidestream.Dead, stream, f.Durable)
}

// onlyDurable reports whether pattern decides alone.
func (f *Filter) onlyDurable() bool {
	return f.Subject == "" && f.Cause == "" && f.Sequence == 0 && len(f.Header) == 0 && f.From.IsZero() && f.To.IsZero() && f.Match == nil
}

// matches reports whether m, whose subject in S-dead matches pattern, matches f.
func (f *Filter) matches(m *Message) (bool, error) {
	switch {
	case f.Subject != "" && !subject.Matches(f.Subject, m.Subject),
		f.Cause != "" && f.Cause != m.Cause,
		f.Sequence != 0 && f.Sequence != m.Sequence,
		!f.From.IsZero() && m.DeadAt.Before(f.From),
		!f.To.IsZero() && !m.DeadAt.Before(f.To),
		!hasHeader(m.Header, f.Header):
		return false, nil
	case f.Match != nil:
		return f.Match(m)
	}
	return true, nil
}

// hasHeader reports whether have has all values of wanted.
func hasHeader(have, wanted map[string][]string) bool {
	for name, values := range wanted {
		var found []string
		for key, v := range have {
			if strings.EqualFold(key, name) {
				found = append(found, v...)
			}
		}
		for _, v := range values {
			if !slices.Contains(found, v) {
				return false
			}
		}
	}
	return true
}
