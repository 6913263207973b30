package bus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus/internal/dead"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// aside is where the messages of one durable go that it cannot handle, or not yet:
// the two streams that package dead describes.
type aside struct {
	bus     *Bus
	home    *Stream // whose messages they are
	stream  string
	durable string
	age     string                 // the incarnation of the stream when it was looked up first
	newer   atomic.Pointer[string] // a later one, if the stream was made anew
	parks   bool                   // the server can hold messages until a time
	ackWait time.Duration          // of the consumer of what comes back
	most    int                    // how many messages that one may have out

	letters, retries jetstream.Stream
}

// openAside declares what lies beside s, and the consumer by which messages come
// back to durable. It changes nothing that exists, but
// for subjects that an older version did not use.
func (s *Stream) openAside(ctx context.Context, durable string, ackWait time.Duration) (*aside, error) {
	age, err := s.bus.incarnation(ctx, s.name)
	if err != nil {
		return nil, err
	}
	a := &aside{bus: s.bus, home: s, stream: s.name, durable: durable, age: age, ackWait: ackWait}
	if a.letters, err = s.declareDead(ctx); err != nil {
		return nil, err
	}
	retries := jetstream.StreamConfig{Name: dead.RetryStreamOf(s.name), Retention: jetstream.WorkQueuePolicy, AllowMsgSchedules: true,
		Subjects: []string{dead.SubjectsOf(dead.Retry, s.name), dead.SubjectsOf(dead.Later, s.name), dead.SubjectsOf(dead.Note, s.name)}}
	a.retries, err = s.declareBeside(ctx, retries)
	if errors.Is(err, errTooOld) {
		retries.AllowMsgSchedules = false
		a.retries, err = s.declareBeside(ctx, retries)
	}
	if err != nil {
		return nil, err
	}
	have := a.retries.CachedInfo().Config
	a.parks = have.AllowMsgSchedules
	a.most, err = s.declareRetries(ctx, have.Name, durable, ackWait)
	return a, err
}

// declareRetries makes sure that the consumer of a durable's retries exists, and returns
// how many messages it may have out. It may be paused, and stays so.
func (s *Stream) declareRetries(ctx context.Context, name, durable string, ackWait time.Duration) (mostOut int, err error) {
	con, err := s.bus.core.JetStream.CreateConsumer(ctx, name, jetstream.ConsumerConfig{Durable: durable,
		FilterSubject: dead.SubjectsOfDurable(dead.Retry, s.name, durable), AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxDeliver: -1}) // not in memory: a server that restarts would forget it
	if errors.Is(err, jetstream.ErrConsumerExists) {
		if con, err = s.bus.core.JetStream.Consumer(ctx, name, durable); err == nil && con.CachedInfo().Config.AckWait != ackWait {
			have := con.CachedInfo().Config
			have.AckWait = ackWait
			con, err = s.bus.core.JetStream.UpdateConsumer(ctx, name, have)
		}
	}
	if err != nil {
		return 0, streamError(name, "consume", err)
	}
	return most(con.CachedInfo().Config), nil
}

// declareDead makes sure of the stream of the dead letters.
func (s *Stream) declareDead(ctx context.Context) (jetstream.Stream, error) {
	return s.declareBeside(ctx, jetstream.StreamConfig{Name: dead.StreamOf(s.name),
		Subjects: []string{dead.SubjectsOf(dead.Dead, s.name)}, MaxMsgsPerSubject: 1, AllowDirect: true})
}

// errTooOld marks the refusal of a server that does not know a part of the
// configuration.
var errTooOld = errors.New("the server is too old for this")

// declareBeside makes sure that the stream c exists, as safe as s is.
func (s *Stream) declareBeside(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	st, err := s.bus.core.JetStream.Stream(ctx, c.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		c.Storage, c.Replicas = s.storage, s.replicas
		st, err = s.bus.core.JetStream.CreateStream(ctx, c)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			st, err = s.bus.core.JetStream.Stream(ctx, c.Name) // somebody else was faster
		}
	}
	if err != nil {
		if jserr.Is(err, jserr.InvalidJSON, jserr.InvalidConfig) {
			err = fmt.Errorf("%w: %w", errTooOld, err)
		}
		return nil, streamError(c.Name, "create", err)
	}
	have := st.CachedInfo().Config
	if lacks := missing(c.Subjects, have.Subjects); len(lacks) > 0 && len(lacks) < len(c.Subjects) && have.Retention == c.Retention {
		have.Subjects = append(have.Subjects, lacks...) // an older version made it
		if st, err = s.bus.core.JetStream.UpdateStream(ctx, have); err != nil {
			return nil, streamError(c.Name, "update", err)
		}
	}
	if len(missing(c.Subjects, have.Subjects)) > 0 || have.Retention != c.Retention {
		conflict := &StreamConflictError{Stream: c.Name, Fields: []FieldChange{{Field: "Subjects",
			Have: fmt.Sprintf("%v (%s)", have.Subjects, have.Retention), Want: fmt.Sprintf("%v (%s)", c.Subjects, c.Retention)}}}
		return nil, &StreamError{Stream: s.name, Op: "consume", Err: fmt.Errorf("%w; what consumers of %q cannot handle is kept in a stream with that name, and this one is somebody else's: rename one of the two", conflict, s.name)}
	}
	return st, nil
}

// source is where messages of the durable come back.
func (a *aside) source() intake.Source {
	stream := dead.RetryStreamOf(a.stream)
	return intake.Source{
		Next:    nextSubject(stream, a.durable),
		Info:    infoSubject(stream, a.durable),
		MaxHeld: a.most,
		Restore: restore,
	}
}

// restore makes of a message that comes back what it was.
func restore(d *wire.Delivery) error {
	c, err := dead.Parse(d.Header, d.Data)
	if err != nil {
		return err
	}
	if _, p, ok := dead.ParseSubject(d.Subject); ok {
		d.Stored.Incarnation = p.Incarnation
	}
	d.Subject, d.Header = c.Subject, c.Header
	d.Stored.Stream, d.Stored.Sequence, d.Stored.Time, d.Stored.Attempt, d.Stored.DeadLetter = c.Stream, c.Sequence, c.Time, c.Attempts+1, c.Letter
	return nil
}

func (a *aside) place(sequence uint64) dead.Place {
	age := a.age
	if newer := a.newer.Load(); newer != nil {
		age = *newer
	}
	return dead.Place{Stream: a.stream, Durable: a.durable, Incarnation: age, Sequence: sequence}
}

// placeOf is where d belongs, which has a key or none.
func (a *aside) placeOf(d *wire.Delivery) dead.Place {
	p := a.place(d.Stored.Sequence)
	if d.Stored.Incarnation != "" {
		p.Incarnation = d.Stored.Incarnation
	}
	if d.Stored.Key != "" {
		p.Key = dead.KeyToken(d.Stored.Key)
	}
	return p
}

// copyOf describes d, of whose handler calls so many have failed.
func copyOf(d *wire.Delivery, attempts int) *dead.Copy {
	return &dead.Copy{Subject: d.Subject, Header: d.Header, Data: d.Data, Stream: d.Stored.Stream,
		Sequence: d.Stored.Sequence, Time: d.Stored.Time, Attempts: attempts, Letter: d.Stored.DeadLetter}
}

// bury makes d a dead letter. Where the stream for it is gone it is made anew, for the
// next try. Of what is too large to be copied, as others may publish it, only a
// reference is kept, if the stream keeps the message.
func (a *aside) bury(ctx context.Context, d *wire.Delivery, cause Cause) error {
	c := copyOf(d, d.Stored.Attempt)
	c.Cause, c.Error = string(cause), d.Stored.Dead.Error()
	ctx = inTrace(ctx, d)
	err := a.putLetter(ctx, d, c)
	if !isTooLarge(err) {
		return err
	}
	if retention, there := a.retention(ctx); there && retention == jetstream.LimitsPolicy {
		c.Reference = true
		return a.putLetter(ctx, d, c)
	}
	return err
}

// putLetter stores c, of d, unless it is there. What was a dead letter before takes the
// place of that one, which may not be removed yet.
func (a *aside) putLetter(ctx context.Context, d *wire.Delivery, c *dead.Copy) error {
	out := func(p dead.Place) wire.Out { return c.Out(p.Subject(dead.Dead)) }
	if c.Letter > 0 {
		instead := out(a.placeOf(d))
		dead.After(&instead, c.Letter)
		err := a.store(ctx, dead.Dead, instead)
		if !isThere(err) && !errors.Is(err, ErrNoResponders) {
			return err
		}
		// That one is removed, or this one written.
	}
	return a.keep(ctx, dead.Dead, d, out)
}

// isTooLarge reports whether err says that the server does not take so large a message.
func isTooLarge(err error) bool {
	if _, ok := errors.AsType[*PayloadError](err); ok {
		return true
	}
	return jserr.Is(err, jserr.HeaderTooLarge)
}

// retention is how the stream whose messages these are keeps them; there is false
// where it is gone.
func (a *aside) retention(ctx context.Context) (r jetstream.RetentionPolicy, there bool) {
	ctx, cancel := a.bus.core.WithTimeout(ctx)
	defer cancel()
	st, err := a.bus.core.JetStream.Stream(ctx, a.stream)
	if err != nil || !st.CachedInfo().Created.Equal(a.home.created) {
		return 0, false
	}
	return st.CachedInfo().Config.Retention, true
}

// inTrace is ctx in the trace of d's last handler call.
func inTrace(ctx context.Context, d *wire.Delivery) context.Context {
	if d.Stored.Context == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(d.Stored.Context))
}

// park keeps d until at; then it comes back. A time that the server cannot count to, it
// would take for the past.
func (a *aside) park(ctx context.Context, d *wire.Delivery, at time.Time) error {
	if latest := time.Now().Add(untilResume); at.After(latest) {
		at = latest
	}
	return a.keep(inTrace(ctx, d), dead.Later, d, func(p dead.Place) wire.Out {
		out := copyOf(d, d.Stored.Attempt-1).Out(p.Subject(dead.Later))
		out.Header[wire.HeaderNatsSchedule] = []string{"@at " + at.UTC().Format(time.RFC3339Nano)}
		out.Header[wire.HeaderNatsScheduleTarget] = []string{p.Subject(dead.Retry)}
		return out
	})
}

// store stores a copy of a kind. Where its place has one already it says so.
func (a *aside) store(ctx context.Context, kind string, out wire.Out) error {
	ctx, done := a.bus.core.Bound(ctx)
	defer done()
	_, err := a.bus.core.Outlet.Store(ctx, &outlet.Message{Out: out, Copy: dead.Name(kind), Idempotent: true})
	return translate(err)
}

// isThere reports whether err says that a message was not stored because its
// subject has one.
func isThere(err error) bool {
	return jserr.IsWrongLastSequence(err)
}
