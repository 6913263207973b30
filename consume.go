package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

const defaultAckWait = 30 * time.Second

// RetryPolicy says when a message whose handler failed is tried again: first
// after MinBackoff, then after twice as long each time up to MaxBackoff, less a
// random part of up to a quarter. Zero fields mean 100 ms and 1 minute.
type RetryPolicy struct {
	MinBackoff time.Duration
	MaxBackoff time.Duration
}

var defaultRetry = RetryPolicy{MinBackoff: 100 * time.Millisecond, MaxBackoff: time.Minute}

// Retry sets when a failed message is tried again.
func Retry(p RetryPolicy) ConsumeOption {
	return consumeOption(func(o *handleOptions) {
		if p.MinBackoff == 0 {
			p.MinBackoff = defaultRetry.MinBackoff
		}
		if p.MaxBackoff == 0 {
			p.MaxBackoff = max(defaultRetry.MaxBackoff, p.MinBackoff)
		}
		if p.MinBackoff < 0 || p.MaxBackoff < p.MinBackoff {
			o.fail("Retry", fmt.Sprintf("%+v", p), "the backoffs must be more than zero, and MaxBackoff not less than MinBackoff")
			return
		}
		o.retry = p
	})
}

// AckWait is how long the server waits for a sign of life of a message before it
// gives it to another member; the default is 30 s. The library sends such signs
// by itself for as long as the message waits or its handler runs, so this only
// says how soon the messages of a process that died come again. At least 1 s.
func AckWait(d time.Duration) ConsumeOption {
	return consumeOption(func(o *handleOptions) {
		if d < time.Second {
			o.fail("AckWait", d, "must be at least 1s")
			return
		}
		o.ackWait = d
	})
}

// consumeOption is an option of Consume alone.
type consumeOption func(*handleOptions)

func (f consumeOption) onConsume(o *handleOptions) { f(o) }

// Consumer is one process's part in a durable consumer. Safe for concurrent use.
type Consumer struct {
	bus      *Bus
	stream   string
	durable  string
	receiver *receiver
	in       *intake.Durable

	end   sync.Once
	ended chan struct{} // closed when end has been done
	err   error
}

// Consume has h handle the messages of st that match s, from the first stored
// one on, at least once each. The name durable identifies the consumer on the
// server: it goes on where it was after a restart, and all processes that
// consume with this name share the messages.
//
// A message is done when h returns nil. After an error or a panic, or when it
// cannot be decoded, it is tried again as Retry says (RetryAfter overrides that
// once), here, while others go on. While it waits or is handled the server is
// told that it is alive. Msg.Attempt counts the tries of this process.
//
// Errors: *ConsumerConflictError when durable exists with another filter;
// *OptionError, *SubjectError, *ArgumentError, ErrStreamNotFound, *StreamError,
// ErrTimeout, ErrClosed.
func Consume[T any](ctx context.Context, st *Stream, durable string, s Subject[T], h Handler[T], opts ...ConsumeOption) (*Consumer, error) {
	if h == nil {
		return nil, &ArgumentError{Func: "Consume", Arg: "handler", Reason: "is nil"}
	}
	return st.consume(ctx, durable, string(s), typed(h), opts)
}

func (s *Stream) consume(ctx context.Context, durable, filter string, mk maker, opts []ConsumeOption) (*Consumer, error) {
	if err := s.callable(ctx, "Consume"); err != nil {
		return nil, err
	}
	o := newHandleOptions()
	for _, opt := range opts {
		opt.onConsume(o)
	}
	if err := s.checkConsume(durable, filter, o); err != nil {
		return nil, err
	}
	ctx, cancel := s.bus.cfg.withTimeout(ctx)
	defer cancel()
	o.group = durable
	info, err := s.declareConsumer(ctx, durable, filter, o)
	if err != nil {
		return nil, err
	}
	c := &Consumer{bus: s.bus, stream: s.name, durable: durable, receiver: s.bus.newReceiver(filter, o, mk), ended: make(chan struct{})}
	if err := c.open(ctx, o, info.Config.AckWait); err != nil {
		return nil, err
	}
	return c, nil
}

func (s *Stream) checkConsume(durable, filter string, o *handleOptions) error {
	if o.err != nil {
		return o.err
	}
	if !streamName.MatchString(durable) {
		return &OptionError{Option: "Consume durable", Value: fmt.Sprintf("%q", durable), Reason: "use 1 to 200 letters, digits, - and _"}
	}
	if err := checkPattern(filter); err != nil {
		return err
	}
	for _, p := range s.subjects {
		if subject.Overlap(p, filter) {
			return nil
		}
	}
	return &SubjectError{Subject: filter, Reason: fmt.Sprintf("stream %q stores nothing that matches", s.name),
		Hint: "it stores " + strings.Join(s.subjects, ", ")}
}

// declareConsumer creates the consumer, or checks that the one there is fits.
func (s *Stream) declareConsumer(ctx context.Context, durable, filter string, o *handleOptions) (*jetstream.ConsumerInfo, error) {
	want := jetstream.ConsumerConfig{Durable: durable, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: o.ackWait, MaxDeliver: -1}
	con, err := s.bus.js.CreateConsumer(ctx, s.name, want)
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return s.adoptConsumer(ctx, want)
	}
	if err != nil {
		return nil, streamError(s.name, "consume", err)
	}
	return con.CachedInfo(), nil
}

// adoptConsumer uses the consumer that exists, whose AckWait may differ.
func (s *Stream) adoptConsumer(ctx context.Context, want jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	con, err := s.bus.js.Consumer(ctx, s.name, want.Durable)
	if err != nil {
		return nil, streamError(s.name, "consume", err)
	}
	have := con.CachedInfo().Config
	var conflicts []FieldConflict
	if filters := strings.Join(append(have.FilterSubjects, have.FilterSubject), " "); strings.TrimSpace(filters) != want.FilterSubject {
		conflicts = append(conflicts, FieldConflict{"filter", strings.TrimSpace(filters), want.FilterSubject})
	}
	if have.AckPolicy != want.AckPolicy {
		conflicts = append(conflicts, FieldConflict{"ack policy", have.AckPolicy.String(), want.AckPolicy.String()})
	}
	if have.MaxDeliver > 0 {
		conflicts = append(conflicts, FieldConflict{"max deliver", fmt.Sprint(have.MaxDeliver), "no limit"})
	}
	if len(conflicts) > 0 {
		return nil, &ConsumerConflictError{Stream: s.name, Durable: want.Durable, Fields: conflicts}
	}
	return con.CachedInfo(), nil
}

func (c *Consumer) open(ctx context.Context, o *handleOptions, ackWait time.Duration) error {
	in, err := intake.OpenDurable(c.bus.link, intake.DurableConfig{
		Next:        "$JS.API.CONSUMER.MSG.NEXT." + c.stream + "." + c.durable,
		Concurrency: o.concurrency,
		AckWait:     ackWait,
		Policy:      settle.Policy(o.retry),
		Timeout:     c.bus.cfg.timeout,
		Run:         c.run,
		Stalled:     c.stalled,
		Settling:    c.settling,
	})
	if err != nil {
		return translate(err)
	}
	c.in = in
	if err := c.bus.registry.Add(stageSubscribers, c); err != nil {
		_ = in.Drain(ctx)
		return translate(err)
	}
	in.Start()
	return nil
}

// settling traces a settlement; the function it returns ends the span.
func (c *Consumer) settling(d wire.Delivery, name string) (end func(error)) {
	_, span := c.bus.tel.Settle(d.Stored.Context, telemetry.Op{Name: name, Subject: d.Subject, Template: c.receiver.pattern, Group: c.durable})
	return span.End
}

// run makes one attempt at d.
func (c *Consumer) run(d wire.Delivery) settle.Outcome {
	if d.Stored.Deliveries > 1 {
		c.receiver.counters.Redelivered.Add(1)
		c.bus.tel.Redelivered(c.receiver.pattern, c.durable, 1)
	}
	m := newRaw(&d)
	ctx, err := c.receiver.call(m, d.Number)
	d.Stored.Context = ctx
	if err == nil {
		return settle.Outcome{}
	}
	c.bus.report(Event{Kind: EventRetry, Subject: m.Subject, Stream: c.stream, Durable: c.durable, Sequence: m.Sequence, Err: err})
	var asked *retryAfter
	if errors.As(err, &asked) {
		return settle.Outcome{Failed: true, Asked: true, After: asked.delay}
	}
	return settle.Outcome{Failed: true}
}

// stalled reports that no messages come, and ends the consumer when none will.
func (c *Consumer) stalled(err error) {
	c.bus.report(Event{Kind: EventConsumerStalled, Stream: c.stream, Durable: c.durable, Err: err})
	if errors.Is(err, intake.ErrConsumerDeleted) {
		go func() { _ = c.Drain(context.Background()) }() // ends with the intake, which Shutdown waits for too
	}
}

// Drain takes no more messages, gives back those that were not begun, waits for
// the handlers and until their acknowledgements have arrived, and ends the
// consumer in this process. When ctx ends first (the bus's drain timeout, if it
// has no deadline) it ends at once and returns a *DrainError; what was not
// finished comes again. Called from one of its own handlers it does not wait for
// that one. Further calls wait for the first one.
func (c *Consumer) Drain(ctx context.Context) error {
	if ctx == nil {
		return noContext("Drain")
	}
	ctx, cancel := c.bus.cfg.withDrainTimeout(dispatch.FromCaller(ctx))
	defer cancel()
	first := false
	c.end.Do(func() { first = true })
	if !first {
		return c.awaitEnd(ctx)
	}
	if err := c.in.Drain(ctx); err != nil {
		c.err = c.unfinished(err)
	}
	c.bus.retire(c)
	close(c.ended)
	return c.err
}

func (c *Consumer) awaitEnd(ctx context.Context) error {
	if c.runsCaller(ctx) {
		return nil
	}
	select {
	case <-c.ended:
		return c.err
	case <-ctx.Done():
		return c.unfinished(context.Cause(ctx))
	}
}

func (c *Consumer) unfinished(why error) error {
	msgs, _ := c.in.Pending()
	return &DrainError{Subject: c.receiver.pattern, Pending: msgs, Running: c.in.InFlight(), Err: why}
}

// Done returns a channel that is closed when the consumer has ended in this
// process: by Drain, with the bus, or because it was deleted on the server.
func (c *Consumer) Done() <-chan struct{} { return c.in.Done() }

// Err is why the consumer ended by itself, as a *StreamError, or nil.
func (c *Consumer) Err() error {
	if err := c.in.Err(); err != nil {
		return &StreamError{Stream: c.stream, Op: "consume as " + c.durable, Err: err}
	}
	return nil
}

func (c *Consumer) runsCaller(ctx context.Context) bool { return c.in.RunsCaller(ctx) }

func (c *Consumer) stats() SubscriptionStats {
	st := c.receiver.stats(c.in)
	st.Queue, st.Stream, st.Durable = "", c.stream, c.durable
	st.Pending, st.PendingBytes = c.in.Pending()
	st.InFlight = c.in.InFlight()
	return st
}
