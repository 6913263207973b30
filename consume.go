package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

const defaultAckWait = 30 * time.Second

// AckWait is how long the server waits for a sign of life of a message before it
// gives it to another member; the default is 30 s. The library sends such signs
// by itself for as long as the message waits or its handler runs, so this only
// says how soon the messages of a process that died come again. At least 1 s. It
// holds for all members of a durable, which should give the same: the last one to
// start sets it.
func AckWait(d time.Duration) ConsumeOption {
	return consumeOption(func(o *handleOptions) {
		if d < time.Second {
			o.fail("AckWait", d, "must be at least 1s")
			return
		}
		o.ackWait, o.ackWaitGiven = d, true
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
	in       taking
	aside    *aside
	retry    RetryPolicy

	ending ending
}

// Consume has h handle the messages of st that match s, from the first stored
// one on, at least once each. The name durable identifies the consumer on the
// server: it goes on where it was after a restart, and all processes that
// consume with this name share the messages.
//
// A message is done when h returns nil. After an error or a panic it is tried again
// as Retry says (RetryAfter overrides that once), while others go on. When its
// attempts are used up, when h returns a Permanent error, and when it is malformed
// or invalid, it becomes a dead letter: see DeadLetters. While a message waits or is
// handled the server is told that it is alive. Msg.Attempt numbers the handler
// calls; a process that dies forgets those of the messages it was at.
//
// h gets the payload and the headers as they came, at each attempt the same: who
// wants to change Data that is bytes, or the Header, copies it first.
//
// Beside the stream S two more are made: S-dead for the dead letters, and S-retry,
// where messages with long pauses between their attempts wait. ctx bounds the call.
// The consumer goes on until Drain or the end of the bus.
//
// Errors: *ConsumerConflictError when durable exists with another filter, or with
// settings with which this cannot work;
// *OptionError, *SubjectError, *ArgumentError, ErrStreamNotFound, *StreamError,
// ErrTimeout, ErrClosed.
func Consume[T any](ctx context.Context, st *Stream, durable string, s Subject[T], h Handler[T], opts ...ConsumeOption) (*Consumer, error) {
	if h == nil {
		return nil, &ArgumentError{Func: "Consume", Arg: "handler", Reason: "is nil"}
	}
	return st.consume(ctx, durable, string(s), typed(h), slices.Concat(opts, []ConsumeOption{handles[T]()}))
}

func (s *Stream) consume(ctx context.Context, durable, filter string, mk maker, opts []ConsumeOption) (*Consumer, error) {
	if err := s.callable(ctx, "Consume"); err != nil {
		return nil, err
	}
	o := newHandleOptions()
	if err := applyAll(opts, o, ConsumeOption.onConsume); err != nil {
		return nil, err
	}
	ctx, cancel := s.bus.cfg.withTimeout(ctx)
	defer cancel()
	if err := s.checkConsume(ctx, durable, filter, o); err != nil {
		return nil, err
	}
	o.group = durable
	r, err := s.bus.newReceiver(filter, o, mk)
	if err != nil {
		return nil, err
	}
	info, err := s.declareConsumer(ctx, durable, filter, o)
	if err != nil {
		return nil, err
	}
	beside, err := s.openAside(ctx, durable, info.Config.AckWait)
	if err != nil {
		return nil, err
	}
	if o.shares(s.bus) {
		if err := s.openClaims(ctx); err != nil {
			return nil, err
		}
	}
	c := &Consumer{bus: s.bus, aside: beside, retry: o.retry, stream: s.name, durable: durable, receiver: r, ending: newEnding()}
	if err := c.open(ctx, o, info.Config); err != nil {
		return nil, err
	}
	return c, nil
}

func (s *Stream) checkConsume(ctx context.Context, durable, filter string, o *handleOptions) error {
	if o.err != nil {
		return o.err
	}
	if !streamName.MatchString(durable) {
		return badDurable(durable)
	}
	if err := checkPattern(filter); err != nil {
		return err
	}
	if err := o.checkKey(filter); err != nil {
		return err
	}
	return s.stores(ctx, filter, "stores nothing that matches", func(c *content) bool { return c.mayHave(filter) })
}

func badDurable(name string) error {
	return &OptionError{Option: "Consume durable", Value: fmt.Sprintf("%q", name), Reason: "use 1 to 200 letters, digits, - and _"}
}

// declareConsumer creates the consumer, or checks that the one there is fits.
func (s *Stream) declareConsumer(ctx context.Context, durable, filter string, o *handleOptions) (*jetstream.ConsumerInfo, error) {
	want := jetstream.ConsumerConfig{Durable: durable, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: o.ackWait, MaxDeliver: -1, MaxAckPending: max(leastAckPending, 4*o.concurrency)}
	con, err := s.bus.js.CreateConsumer(ctx, s.name, want)
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return s.adoptConsumer(ctx, want, o.ackWaitGiven)
	}
	if err != nil {
		return nil, streamError(s.name, "consume", err)
	}
	return con.CachedInfo(), nil
}

// leastAckPending is how many messages of a durable may be unfinished, in all its
// members together.
const leastAckPending = 1000

// most is how many messages of a consumer may be here.
func most(c jetstream.ConsumerConfig) int {
	if c.MaxAckPending <= 0 {
		return leastAckPending
	}
	return c.MaxAckPending
}

// adoptConsumer uses the consumer that exists, with another AckWait if that is asked
// for.
func (s *Stream) adoptConsumer(ctx context.Context, want jetstream.ConsumerConfig, ackWait bool) (*jetstream.ConsumerInfo, error) {
	con, err := s.bus.js.Consumer(ctx, s.name, want.Durable)
	if err != nil {
		return nil, streamError(s.name, "consume", err)
	}
	have := con.CachedInfo().Config
	if conflicts := consumerConflicts(have, want); len(conflicts) > 0 {
		return nil, &ConsumerConflictError{Stream: s.name, Durable: want.Durable, Fields: conflicts}
	}
	if !ackWait || have.AckWait == want.AckWait {
		return con.CachedInfo(), nil
	}
	have.AckWait = want.AckWait
	if con, err = s.bus.js.UpdateConsumer(ctx, s.name, have); err != nil {
		return nil, streamError(s.name, "update the consumer", err)
	}
	return con.CachedInfo(), nil
}

// consumerConflicts is what a consumer has with which Consume cannot do what it
// promises.
func consumerConflicts(have, want jetstream.ConsumerConfig) []FieldConflict {
	var conflicts []FieldConflict
	check := func(field string, have, want any) {
		if have != want {
			conflicts = append(conflicts, FieldConflict{field, fmt.Sprint(have), fmt.Sprint(want)})
		}
	}
	check("filter", strings.TrimSpace(strings.Join(append(have.FilterSubjects, have.FilterSubject), " ")), want.FilterSubject)
	check("ack policy", have.AckPolicy, want.AckPolicy)
	check("deliver policy", have.DeliverPolicy, want.DeliverPolicy)
	check("replay policy", have.ReplayPolicy, want.ReplayPolicy)
	check("deliver subject", have.DeliverSubject, "")
	check("max deliver", deliveries(have), deliveries(want))
	check("headers only", have.HeadersOnly, false)
	check("backoff", len(have.BackOff), 0)
	check("max request batch", have.MaxRequestBatch, 0)
	check("max request expires", have.MaxRequestExpires, time.Duration(0))
	check("max request bytes", have.MaxRequestMaxBytes, 0)
	check("priority policy", have.PriorityPolicy, want.PriorityPolicy)
	return conflicts
}

// deliveries is how often c sends a message at most.
func deliveries(c jetstream.ConsumerConfig) string {
	if c.MaxDeliver <= 0 {
		return "no limit"
	}
	return strconv.Itoa(c.MaxDeliver)
}

func (c *Consumer) open(ctx context.Context, o *handleOptions, config jetstream.ConsumerConfig) (err error) {
	conf := c.intakeConfig(o, config)
	if o.shares(c.bus) {
		c.in, err = c.share(o, conf)
	} else {
		c.in, err = c.takeIn(ctx, o, conf)
	}
	if err != nil {
		return translate(err)
	}
	if err := c.bus.registry.Add(stageSubscribers, c); err != nil {
		_ = c.in.Drain(ctx)
		return translate(err)
	}
	c.in.Start()
	return nil
}

// takeIn opens an intake that begins with what others have left.
func (c *Consumer) takeIn(ctx context.Context, o *handleOptions, conf intake.DurableConfig) (*intake.Durable, error) {
	m, err := c.aside.openMemory(ctx, c, o)
	if err != nil {
		return nil, err
	}
	conf.Memory = m
	conf.Bury = func(d wire.Delivery) error { return c.bury(d, m) }
	return intake.OpenDurable(c.bus.link, conf)
}

func (c *Consumer) intakeConfig(o *handleOptions, config jetstream.ConsumerConfig) intake.DurableConfig {
	return intake.DurableConfig{
		Source: intake.Source{
			Next: "$JS.API.CONSUMER.MSG.NEXT." + c.stream + "." + c.durable,
			Info: "$JS.API.CONSUMER.INFO." + c.stream + "." + c.durable,
		},
		More:        []intake.Source{c.aside.source()},
		Concurrency: o.concurrency,
		Window:      8,
		AckWait:     config.AckWait,
		Key:         o.keyFunc(c.bus.format),
		Most:        most(config),
		GiveUpStuck: o.stuckKey == ParkKey,
		Policy:      o.retry.policy(),
		Timeout:     c.bus.cfg.timeout,
		Run:         c.run,
		Stalled:     c.stalled,
		Settling:    c.settling,
		Park:        c.park(),
	}
}

// settling traces a settlement; the function it returns ends the span.
func (c *Consumer) settling(d wire.Delivery, name string) (end func(error)) {
	if c.bus.tel == nil {
		return func(error) {}
	}
	ctx := d.Stored.Context
	if ctx == nil { // its handler, if any, ran elsewhere
		ctx = context.Background()
	}
	_, span := c.bus.tel.Settle(ctx, telemetry.Op{Name: name, Subject: d.Subject, Template: c.receiver.pattern, Group: c.durable})
	return span.End
}

// run makes one attempt at d.
func (c *Consumer) run(d wire.Delivery) settle.Outcome {
	if d.Stored.Deliveries > 1 && d.Stored.Attempt == 1 {
		c.receiver.counters.Redelivered.Add(1)
		c.bus.tel.Redelivered(c.receiver.pattern, c.durable, 1)
	}
	m := newRaw(&d)
	ctx, err := c.receiver.call(m, d.Number)
	d.Stored.Context = ctx
	outcome := c.retry.outcome(err)
	if err != nil && !outcome.Permanent && (c.retry.MaxAttempts == Unlimited || m.Attempt < c.retry.MaxAttempts) {
		c.bus.report(Event{Kind: EventRetry, Subject: m.Subject, Stream: c.stream, Durable: c.durable, Sequence: m.Sequence, Err: err})
	}
	return outcome
}

// bury makes d, which will not be handled, a dead letter.
func (c *Consumer) bury(d wire.Delivery, m *memory) error {
	e := Event{Kind: EventDeadLetter, Subject: d.Subject, Stream: c.stream, Durable: c.durable, Sequence: d.Stored.Sequence, Err: d.Stored.Dead}
	err := c.aside.bury(c.receiver.ctx, &d, c.retry.causeOf(d.Stored.Dead))
	if err != nil {
		e.Kind, e.Err = EventDeadLetterFailed, err
	} else {
		m.keys.buried(&d)
		c.receiver.counters.DeadLetters.Add(1)
	}
	c.bus.report(e)
	return err
}

// park returns what keeps messages until their next attempt, nil where the server
// cannot.
func (c *Consumer) park() func(context.Context, wire.Delivery, time.Time) error {
	if !c.aside.parks {
		return nil
	}
	return func(ctx context.Context, d wire.Delivery, at time.Time) error { return c.aside.park(ctx, &d, at) }
}

// stalled reports that no messages come, and ends the consumer when none will.
func (c *Consumer) stalled(err error) {
	e := Event{Kind: EventConsumerStalled, Stream: c.stream, Durable: c.durable, Err: err}
	if stuck, ok := errors.AsType[*intake.KeyStuck](err); ok {
		e.Kind, e.Subject, e.Sequence = EventKeyStuck, stuck.Subject, stuck.Sequence
	}
	c.bus.report(e)
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
	return c.ending.finish(ctx, c, func() (err error) {
		if why := c.in.Drain(ctx); why != nil {
			err = c.unfinished(why)
		}
		c.bus.retire(c)
		return err
	})
}

func (c *Consumer) unfinished(why error) error {
	e := &DrainError{Subject: c.receiver.pattern, Stream: c.stream, Durable: c.durable, Running: c.in.InFlight(), Err: why}
	e.Pending, _ = c.in.Pending()
	return e.whenGivenUp()
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
	if shared, ok := c.in.(*sharing); ok {
		st.Owner = shared.Owns()
	}
	return st
}
