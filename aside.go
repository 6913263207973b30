package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
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
	stream  string
	durable string
	age     string                 // the incarnation of the stream when it was looked up first
	newer   atomic.Pointer[string] // a later one, if the stream was made anew
	parks   bool                   // the server can hold messages until a time
	of      *Stream                // whose messages they are; to declare it again
	ackWait time.Duration          // likewise

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
	a := &aside{bus: s.bus, stream: s.name, durable: durable, age: age, of: s, ackWait: ackWait}
	if a.letters, err = s.declareBeside(ctx, jetstream.StreamConfig{Name: dead.StreamOf(s.name),
		Subjects: []string{dead.SubjectsOf(dead.Dead, s.name)}, AllowDirect: true}); err != nil {
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
	return a, s.declareRetries(ctx, have.Name, durable, ackWait)
}

// declareRetries makes sure that the consumer of a durable's retries exists. It may
// be paused, and stays so.
func (s *Stream) declareRetries(ctx context.Context, name, durable string, ackWait time.Duration) error {
	_, err := s.bus.js.CreateConsumer(ctx, name, jetstream.ConsumerConfig{Durable: durable,
		FilterSubject: dead.SubjectsOfDurable(dead.Retry, s.name, durable), AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxDeliver: -1, MemoryStorage: true}) // its state is in what is left of the queue
	if errors.Is(err, jetstream.ErrConsumerExists) {
		var con jetstream.Consumer
		if con, err = s.bus.js.Consumer(ctx, name, durable); err == nil && con.CachedInfo().Config.AckWait != ackWait {
			have := con.CachedInfo().Config
			have.AckWait = ackWait
			_, err = s.bus.js.UpdateConsumer(ctx, name, have)
		}
	}
	if err != nil {
		return streamError(name, "consume", err)
	}
	return nil
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
		return nil, &StreamConflictError{Stream: c.Name, Fields: []FieldConflict{{"Subjects",
			fmt.Sprintf("%v (%s)", have.Subjects, have.Retention), fmt.Sprintf("%v (%s)", c.Subjects, c.Retention)}}}
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
	if _, p, ok := dead.ParseSubject(d.Subject); ok {
		d.Stored.Age = p.Incarnation
	}
	d.Subject, d.Header = c.Subject, c.Header
	d.Stored.Stream, d.Stored.Sequence, d.Stored.Time, d.Stored.Attempt = c.Stream, c.Sequence, c.Time, c.Attempts+1
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
	if d.Stored.Age != "" {
		p.Incarnation = d.Stored.Age
	}
	if d.Stored.Key != "" {
		p.Key = dead.KeyToken(d.Stored.Key)
	}
	return p
}

// copyOf describes d, of whose handler calls so many have failed.
func copyOf(d *wire.Delivery, attempts int) *dead.Copy {
	return &dead.Copy{Subject: d.Subject, Header: d.Header, Data: d.Data, Stream: d.Stored.Stream,
		Sequence: d.Stored.Sequence, Time: d.Stored.Time, Attempts: attempts}
}

// bury makes d a dead letter.
func (a *aside) bury(ctx context.Context, d *wire.Delivery, cause Cause) error {
	c := copyOf(d, d.Stored.Attempt)
	c.Cause, c.Error = string(cause), d.Stored.Dead.Error()
	ctx = inTrace(ctx, d)
	out := func(p dead.Place) wire.Out { return c.Out(p.Subject(dead.Dead)) }
	there, err := a.keep(ctx, dead.Dead, d, out)
	if err != nil || !there || d.Stored.Source == 0 {
		return err
	}
	// d has been given back, and who does that has yet to remove the letter. So it is
	// removed here; another one takes its place before d goes.
	letter := out(a.placeOf(d))
	if err := a.removeLetter(ctx, letter.Subject); err != nil {
		return err
	}
	return a.put(ctx, dead.Dead, letter)
}

// removeLetter removes the letter on a subject.
func (a *aside) removeLetter(ctx context.Context, subject string) error {
	ctx, done := a.bus.bound(ctx)
	defer done()
	m, err := a.letters.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err == nil {
		err = remove(ctx, a.letters, m.Sequence)
	}
	if err != nil {
		return streamError(dead.StreamOf(a.stream), "remove a letter of", err)
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

// inTrace is ctx in the trace of d's last handler call.
func inTrace(ctx context.Context, d *wire.Delivery) context.Context {
	if d.Stored.Context == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(d.Stored.Context))
}

// park keeps d until at; then it comes back.
func (a *aside) park(ctx context.Context, d *wire.Delivery, at time.Time) error {
	_, err := a.keep(inTrace(ctx, d), dead.Later, d, func(p dead.Place) wire.Out {
		out := copyOf(d, d.Stored.Attempt-1).Out(p.Subject(dead.Later))
		out.Header[wire.HeaderNatsSchedule] = []string{"@at " + at.UTC().Format(time.RFC3339Nano)}
		out.Header[wire.HeaderNatsScheduleTarget] = []string{p.Subject(dead.Retry)}
		return out
	})
	return err
}

// put stores a copy of a kind unless it is there already.
func (a *aside) put(ctx context.Context, kind string, out wire.Out) error {
	if err := a.store(ctx, kind, out); !isThere(err) {
		return err
	}
	return nil
}

// store is put that says so when it is there already.
func (a *aside) store(ctx context.Context, kind string, out wire.Out) error {
	ctx, done := a.bus.bound(ctx)
	defer done()
	_, err := a.bus.outlet.Store(ctx, &outlet.Message{Out: out, Copy: dead.Name(kind), Idempotent: true})
	return translate(err)
}

// The server's error codes for "the subject has a message already".
var wrongLastSequence = []int{10071, 10164}

// isThere reports whether err says that a message was not stored because its
// subject has one.
func isThere(err error) bool {
	refused, ok := errors.AsType[*outlet.StoreError](err)
	return ok && slices.Contains(wrongLastSequence, refused.ErrorCode)
}
