package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus/internal/dead"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// aside is where the messages of one durable go that it cannot handle, or not yet:
// the two streams that package dead describes.
type aside struct {
	bus     *Bus
	home    *Stream
	stream  string
	durable string
	age     string // the incarnation of the stream
	parks   bool   // the server can hold messages until a time

	letters, retries jetstream.Stream
}

// openAside declares what lies beside s, and the consumer by which messages come
// back to durable. It changes nothing that exists, but
// for subjects that an older version did not use.
func (s *Stream) openAside(ctx context.Context, durable string, ackWait time.Duration) (*aside, error) {
	a := &aside{bus: s.bus, home: s, stream: s.name, durable: durable, age: dead.Incarnation(s.created)}
	var err error
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
	_, err = s.bus.js.CreateOrUpdateConsumer(ctx, have.Name, jetstream.ConsumerConfig{Durable: durable,
		FilterSubject: dead.SubjectsOfDurable(dead.Retry, s.name, durable), AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxDeliver: -1}) // not in memory: a server that restarts would forget it, and this end
	if err != nil {
		return nil, streamError(have.Name, "consume", err)
	}
	return a, nil
}

// declareDead makes sure of the stream of the dead letters.
func (s *Stream) declareDead(ctx context.Context) (jetstream.Stream, error) {
	return s.declareBeside(ctx, jetstream.StreamConfig{Name: dead.StreamOf(s.name),
		Subjects: []string{dead.SubjectsOf(dead.Dead, s.name)}, MaxMsgsPerSubject: 1, AllowDirect: true})
}

// errTooOld marks the refusal of a server that does not know a part of the
// configuration.
var errTooOld = errors.New("the server is too old for this")

// The server's error codes for a configuration it cannot work with.
const (
	codeInvalidJSON   = 10025
	codeInvalidConfig = 10052
)

// declareBeside makes sure that the stream c exists, as safe as s is.
func (s *Stream) declareBeside(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	st, err := s.bus.js.Stream(ctx, c.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		c.Storage, c.Replicas = s.storage, s.replicas
		st, err = s.bus.js.CreateStream(ctx, c)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			st, err = s.bus.js.Stream(ctx, c.Name) // somebody else was faster
		}
	}
	if err != nil {
		if refused, ok := errors.AsType[*jetstream.APIError](err); ok && (refused.ErrorCode == codeInvalidJSON || refused.ErrorCode == codeInvalidConfig) {
			err = fmt.Errorf("%w: %w", errTooOld, err)
		}
		return nil, streamError(c.Name, "create", err)
	}
	have := st.CachedInfo().Config
	if lacks := missing(c.Subjects, have.Subjects); len(lacks) > 0 && len(lacks) < len(c.Subjects) && have.Retention == c.Retention {
		have.Subjects = append(have.Subjects, lacks...) // an older version made it
		if st, err = s.bus.js.UpdateStream(ctx, have); err != nil {
			return nil, streamError(c.Name, "update", err)
		}
	}
	if len(missing(c.Subjects, have.Subjects)) > 0 || have.Retention != c.Retention {
		return nil, &StreamConflictError{Stream: c.Name, Fields: []FieldChange{{Field: "Subjects",
			Have: fmt.Sprintf("%v (%s)", have.Subjects, have.Retention), Want: fmt.Sprintf("%v (%s)", c.Subjects, c.Retention)}}}
	}
	return st, nil
}

// source is where messages of the durable come back.
func (a *aside) source() intake.Source {
	stream := dead.RetryStreamOf(a.stream)
	return intake.Source{
		Next:    "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + a.durable,
		Info:    "$JS.API.CONSUMER.INFO." + stream + "." + a.durable,
		Restore: restore,
	}
}

// restore makes of a message that comes back what it was.
func restore(d *wire.Delivery) error {
	c, err := dead.Parse(d.Header, d.Data)
	if err != nil {
		return err
	}
	d.Subject, d.Header = c.Subject, c.Header
	d.Stored.Stream, d.Stored.Sequence, d.Stored.Time, d.Stored.Attempt, d.Stored.Letter = c.Stream, c.Sequence, c.Time, c.Attempts+1, c.Letter
	return nil
}

func (a *aside) place(sequence uint64) dead.Place {
	return dead.Place{Stream: a.stream, Durable: a.durable, Incarnation: a.age, Sequence: sequence}
}

// placeOf is where d belongs, which has a key or none.
func (a *aside) placeOf(d *wire.Delivery) dead.Place {
	p := a.place(d.Stored.Sequence)
	if d.Stored.Key != "" {
		p.Key = dead.KeyToken(d.Stored.Key)
	}
	return p
}

// copyOf describes d, of whose handler calls so many have failed.
func copyOf(d *wire.Delivery, attempts int) *dead.Copy {
	return &dead.Copy{Subject: d.Subject, Header: d.Header, Data: d.Data, Stream: d.Stored.Stream,
		Sequence: d.Stored.Sequence, Time: d.Stored.Time, Attempts: attempts, Letter: d.Stored.Letter}
}

// bury makes d a dead letter. Where the stream for it is gone it is made anew, for the
// next try. Of what is too large to be copied, as others may publish it, only a
// reference is kept, if the stream keeps the message.
func (a *aside) bury(ctx context.Context, d *wire.Delivery, cause Cause) error {
	c := copyOf(d, d.Stored.Attempt)
	c.Cause, c.Error = string(cause), d.Stored.Dead.Error()
	subject := a.placeOf(d).Subject(dead.Dead)
	ctx = inTrace(ctx, d)
	err := a.putLetter(ctx, c, subject)
	large, absent := isTooLarge(err), errors.Is(err, ErrNoResponders)
	if !large && !absent {
		return err
	}
	retention, there := a.retention(ctx)
	switch {
	case there && absent:
		err = errors.Join(err, a.redeclare(ctx))
	case there && retention == jetstream.LimitsPolicy:
		c.Reference = true
		return a.putLetter(ctx, c, subject)
	}
	return err
}

// putLetter stores c unless it is there. What was a dead letter before takes the place
// of that one, which may not be removed yet.
func (a *aside) putLetter(ctx context.Context, c *dead.Copy, subject string) error {
	out := c.Out(subject)
	if c.Letter > 0 {
		dead.After(&out, c.Letter)
		if there, err := a.putNew(ctx, dead.Dead, out); err != nil || !there {
			return err
		}
		out = c.Out(subject) // that one is removed, or this one written
	}
	return a.put(ctx, dead.Dead, out)
}

// codeHeaderTooLarge is the server's error code for a header of more than 64 KiB.
const codeHeaderTooLarge = 10097

// isTooLarge reports whether err says that the server does not take so large a message.
func isTooLarge(err error) bool {
	if _, ok := errors.AsType[*PayloadError](err); ok {
		return true
	}
	refused, ok := errors.AsType[*outlet.StoreError](err)
	return ok && refused.ErrorCode == codeHeaderTooLarge
}

// retention is how the stream whose messages these are keeps them; there is false
// where it is gone.
func (a *aside) retention(ctx context.Context) (r jetstream.RetentionPolicy, there bool) {
	ctx, cancel := a.bus.cfg.withTimeout(ctx)
	defer cancel()
	st, err := a.bus.js.Stream(ctx, a.stream)
	if err != nil || !st.CachedInfo().Created.Equal(a.home.created) {
		return 0, false
	}
	return st.CachedInfo().Config.Retention, true
}

func (a *aside) redeclare(ctx context.Context) error {
	ctx, cancel := a.bus.cfg.withTimeout(ctx)
	defer cancel()
	_, err := a.home.declareDead(ctx)
	return err
}

// inTrace is ctx in the trace of d's last handler call.
func inTrace(ctx context.Context, d *wire.Delivery) context.Context {
	if d.Stored.Context == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(d.Stored.Context))
}

// park keeps d until at; then it comes back.
func (a *aside) park(ctx context.Context, d *wire.Delivery, at time.Time) error {
	p := a.place(d.Stored.Sequence)
	out := copyOf(d, d.Stored.Attempt-1).Out(p.Subject(dead.Later))
	out.Header[wire.HeaderNatsSchedule] = []string{"@at " + at.UTC().Format(time.RFC3339Nano)}
	out.Header[wire.HeaderNatsScheduleTarget] = []string{p.Subject(dead.Retry)}
	return a.put(inTrace(ctx, d), dead.Later, out)
}

// put stores a copy of a kind unless it is there already.
func (a *aside) put(ctx context.Context, kind string, out wire.Out) error {
	_, err := a.putNew(ctx, kind, out)
	return err
}

// putNew is put that tells whether it was there already.
func (a *aside) putNew(ctx context.Context, kind string, out wire.Out) (there bool, err error) {
	ctx, done := a.bus.bound(ctx)
	defer done()
	_, err = a.bus.outlet.Store(ctx, &outlet.Message{Out: out, Copy: dead.Name(kind), Idempotent: true})
	if isThere(err) {
		return true, nil
	}
	return false, translate(err)
}

// The server's error codes for "the subject has a message already".
var wrongLastSequence = []int{10071, 10164}

// isThere reports whether err says that a message was not stored because its
// subject has one.
func isThere(err error) bool {
	refused, ok := errors.AsType[*outlet.StoreError](err)
	return ok && slices.Contains(wrongLastSequence, refused.ErrorCode)
}
