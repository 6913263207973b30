package bus

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/recovery"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Consumer is one process's part in a durable consumer. Safe for concurrent use.
type Consumer struct {
	bus      *Bus
	stream   string
	durable  string
	filters  []string // what it handles
	receiver *handlerCall
	side     *sidestream.Store
	retry    RetryPolicy

	intake intake.DurableConfig // of each intake
	mu     sync.Mutex
	in     taking // the present one: Rewind begins another
	past   tally  // of those before
	ended  bool   // there will be no other

	unburied atomic.Pointer[error] // why the latest dead letter could not be written; nil where it was

	rewinds  lifecycle.Mutex
	quiescer *lifecycle.Exclusive // no Rewind lies across
	life     context.Context      // until the end begins
	end      context.CancelCauseFunc
	stopOnce *lifecycle.StopOnce
}

// tally counts handler calls.
type tally struct{ begun, ended int64 }

// Consume has h handle the messages of st that match s, from the first stored
// one on unless StartAt… says otherwise, at least once each. The name durable identifies the consumer on the
// server: it goes on where it was after a restart, and all processes that
// consume with this name share the messages.
//
// A message is done when h returns nil. After an error or a panic it is tried again
// as Retry says (RetryAfter overrides that once), while others go on. Postpone has it
// come again without an attempt. When its attempts are used up, when h returns a Permanent error, and when it is malformed
// or invalid, it becomes a dead letter: see DeadLetters. While a message waits or is
// handled the server is told that it is alive. Msg.Attempt numbers the handler calls;
// one that returns an error after the end of the bus has cut it off does not count, and
// its message is given back.
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
// *OptionError, *SubjectError, ErrStreamNotFound, *StreamError,
// ErrTimeout, ErrClosed.
func Consume[T any](ctx context.Context, st *Stream, durable string, s Subject[T], h Handler[T], opts ...ConsumeOption) (*Consumer, error) {
	if h == nil {
		return nil, badArgument("Consume", "handler", "is nil")
	}
	return st.consume(ctx, durable, consumption{call: "Consume", filters: []string{string(s)}, make: typed(h), of: reflect.TypeFor[T]()}, opts)
}

// consumption is what a call of Consume, ConsumeBatch or Stream.Consume asks for.
type consumption struct {
	call    string // the user's
	filters []string
	make    maker
	of      reflect.Type // what the handler takes
	batch   *batch       // nil for a handler of one message
}

// consume starts a consumer of what matches one of the filters.
func (s *Stream) consume(ctx context.Context, durable string, want consumption, opts []ConsumeOption) (*Consumer, error) {
	if err := s.callable(ctx, want.call); err != nil {
		return nil, err
	}
	o := newConsumeOptions()
	o.batch.handler = want.batch
	_ = applyAll(opts, o, ConsumeOption.onConsume) // what is wrong is returned with the rest
	o.completeBatch(want.call)
	if err := o.joined(); err != nil {
		return nil, err
	}
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	if err := s.checkConsume(ctx, durable, want, o); err != nil {
		return nil, err
	}
	o.group.name = durable
	r, err := s.bus.newHandlerCall(strings.Join(want.filters, " "), &o.handlerOptions, want.make)
	if err != nil {
		return nil, err
	}
	c := &Consumer{bus: s.bus, retry: o.retry, stream: s.name, durable: durable, filters: want.filters, receiver: r, stopOnce: lifecycle.NewStopOnce()}
	c.quiescer = lifecycle.NewExclusive(&c.rewinds, func() lifecycle.Quiescer {
		in, _ := c.now()
		return in
	})
	c.life, c.end = context.WithCancelCause(context.Background())
	if err := c.takeKeys(o); err != nil { // before anything is written for it
		return nil, err
	}
	if err := s.begin(ctx, c, o); err != nil {
		c.leaveKeys()
		return nil, err
	}
	return c, nil
}

// begin declares what c needs on the server, and has it take messages.
func (s *Stream) begin(ctx context.Context, c *Consumer, o *consumeOptions) error {
	info, err := s.declareConsumer(ctx, c.durable, c.filters, o)
	if err != nil {
		return err
	}
	if c.side, err = sidestream.Open(ctx, s.bus.core, s.side, c.durable, info.Config.AckWait); err != nil {
		return translate(err)
	}
	if o.shares(s.bus) {
		if err := sidestream.DeclareKeys(ctx, s.bus.core, s.side); err != nil {
			return translate(err)
		}
	}
	return c.open(ctx, o, info.Config)
}

func (c *Consumer) open(ctx context.Context, o *consumeOptions, config jetstream.ConsumerConfig) (err error) {
	c.intake = c.intakeConfig(o, config)
	c.gather(o)
	if o.shares(c.bus) {
		c.in, err = c.share(o)
	} else if err = c.openRecovery(ctx, o, &c.intake); err == nil {
		c.in, err = intake.OpenDurable(c.bus.core.Link, c.intake)
	}
	if err != nil {
		return translate(err)
	}
	if err := c.bus.registry.Add(lifecycle.StageSubscribers, c, c.quiescer); err != nil {
		_ = c.in.Drain(ctx)
		return translate(err)
	}
	c.in.Start()
	return nil
}

// openRecovery gives an intake the recovery log of the durable, as it is now.
func (c *Consumer) openRecovery(ctx context.Context, o *consumeOptions, conf *intake.DurableConfig) error {
	log, err := recovery.Open(ctx, recovery.Config{Core: c.bus.core, Store: c.side, Stream: c.stream,
		MaxCrashes: max(o.retry.MaxCrashes, 0), Keyed: o.key.make != nil, BlockKeys: o.key.parks(),
		Cause: func(err error) string { return string(c.retry.causeOf(err)) }, Handlers: c.receiver.ctx})
	if err != nil {
		return translate(err)
	}
	conf.Recovery = log
	conf.WriteDeadLetter = func(d wire.Delivery) error { return c.writeDeadLetter(d, log) }
	return nil
}

func (c *Consumer) intakeConfig(o *consumeOptions, config jetstream.ConsumerConfig) intake.DurableConfig {
	return intake.DurableConfig{
		Source: intake.Source{
			Next:    nextSubject(c.stream, c.durable),
			Info:    infoSubject(c.stream, c.durable),
			MaxHeld: most(config),

			Get: "$JS.API.STREAM.MSG.GET." + c.stream, Filter: subject.Covering(c.filters),
		},
		More:        []intake.Source{c.side.Source()},
		Concurrency: o.concurrency,
		Window:      8,
		AckWait:     config.AckWait,
		Key:         o.keyFunc(c.bus.format),
		GiveUpStuck: o.key.parks(),
		Policy:      o.retry.policy(),
		Timeout:     c.bus.core.Timeout,
		Interval:    o.interval,
		Run:         c.run,
		Exited:      c.exited,
		Retrying:    c.retrying,
		Report:      c.stalled,
		Settling:    c.settling,
		DeferRetry:  c.park(),
	}
}

// nextSubject is the API subject that takes requests for messages of a consumer.
func nextSubject(stream, durable string) string {
	return "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + durable
}

// infoSubject is the API subject that takes questions about a consumer.
func infoSubject(stream, durable string) string {
	return "$JS.API.CONSUMER.INFO." + stream + "." + durable
}

// settling traces a settlement; the function it returns ends the span.
func (c *Consumer) settling(d wire.Delivery, name string) (end func(error)) {
	if c.bus.core.Telemetry == nil {
		return func(error) {}
	}
	ctx := d.Stored.Context
	if ctx == nil { // its handler, if any, ran elsewhere
		ctx = context.Background()
	}
	_, span := c.bus.core.Telemetry.Settle(ctx, telemetry.Op{Name: name, Subject: d.Subject, Template: c.receiver.pattern, Group: c.durable})
	return span.End
}

// run makes one attempt at d. A worker of the intake calls it.
func (c *Consumer) run(d wire.Delivery) settle.Outcome {
	return c.outcome(c.call(c.receiver.ctx, d))
}

// call calls the handler for d in ctx, and returns how it failed.
func (c *Consumer) call(ctx context.Context, d wire.Delivery) (err error) {
	if d.Stored.Deliveries > 1 && d.Stored.Attempt == 1 {
		c.receiver.counters.Redelivered.Add(1)
		c.bus.core.Telemetry.Redelivered(c.receiver.pattern, c.durable, 1)
	}
	d.Stored.Context, err = c.receiver.callIn(ctx, newRaw(&d.In, d.Stored), d.Number)
	return err
}

// exited returns the outcome of an attempt at a message whose handler ended its
// goroutine. The goroutine that ends calls it.
func (c *Consumer) exited(wire.Delivery) settle.Outcome {
	return c.outcome(errExited)
}

// retrying reports that d failed with err and will be tried again.
func (c *Consumer) retrying(d wire.Delivery, err error) {
	c.bus.report(event.Event{Kind: event.Retry, Subject: d.Subject, Stream: c.stream, Durable: c.durable, Sequence: d.Stored.Sequence,
		Attempt: d.Stored.Attempt, Err: err})
}

// outcome is what the end of a handler call means. One that the end of the bus cut off
// says nothing of its message.
func (c *Consumer) outcome(err error) settle.Outcome {
	o := c.retry.outcome(err)
	if err != nil && c.receiver.ctx.Err() != nil {
		o.Returned = true
	}
	return o
}

// writeDeadLetter stores d, which will not be handled, as a dead letter, and reports that.
func (c *Consumer) writeDeadLetter(d wire.Delivery, log *recovery.Log) error {
	e := event.Event{Kind: event.DeadLetter, Subject: d.Subject, Stream: c.stream, Durable: c.durable, Sequence: d.Stored.Sequence,
		Attempt: d.Stored.Attempt, Err: d.Stored.Dead}
	cause := c.retry.causeOf(d.Stored.Dead)
	err := translate(c.side.PutDeadLetter(c.receiver.ctx, &d, string(cause)))
	if err != nil {
		c.unburied.Store(&err)
		e.Kind, e.Err = event.DeadLetterFailed, err
	} else {
		c.unburied.Store(nil)
		log.RecordDeadLetter(&d)
		c.receiver.counters.DeadLetters.Add(1)
		c.bus.core.Telemetry.DeadLettered(c.receiver.pattern, c.durable, string(cause))
	}
	c.bus.report(e)
	return err
}

// park returns what keeps messages until their next attempt, nil where the server
// cannot.
func (c *Consumer) park() func(context.Context, wire.Delivery, time.Time) error {
	if !c.side.CanDefer {
		return nil
	}
	return func(ctx context.Context, d wire.Delivery, at time.Time) error { return c.side.DeferRetry(ctx, &d, at) }
}

// stalled reports that no messages come, and ends the consumer when none will.
func (c *Consumer) stalled(err error) {
	e := event.Event{Kind: event.ConsumerStalled, Stream: c.stream, Durable: c.durable, Err: err}
	if stuck, ok := errors.AsType[*intake.KeyStuck](err); ok {
		e.Kind, e.Subject, e.Sequence = event.KeyStuck, stuck.Subject, stuck.Sequence
	}
	c.bus.report(e)
	if errors.Is(err, intake.ErrConsumerDeleted) {
		go func() { _ = c.Drain(context.Background()) }() // ends with the intake, which Shutdown waits for too
	}
}

// none reports whether c was not made by Consume, as what that returns with an error.
// It has ended, and ends again without one.
func (c *Consumer) none() bool { return c == nil || c.bus == nil }

// Drain takes no more messages, gives back those that were not begun, waits for
// the handlers and until their acknowledgements have arrived, and ends the
// consumer in this process. When ctx ends first (the bus's drain timeout, if it
// has no deadline) it ends at once and returns a *DrainError; what was not
// finished comes again. Called from one of its own handlers it does not wait for
// that one. Further calls wait for the first one.
func (c *Consumer) Drain(ctx context.Context) error {
	if c.none() {
		return nil
	}
	if ctx == nil {
		return noContext("Drain")
	}
	ctx, cancel := c.bus.core.WithDrainTimeout(dispatch.FromCaller(ctx))
	defer cancel()
	return c.finish(ctx)
}

// Stop takes no more messages, gives back those that were not begun, and ends the
// consumer in this process without waiting for its handlers. Those that run may
// finish, and settle their messages; nobody keeps these alive any more, so after
// AckWait they come again, here or elsewhere. With keys, where several processes can
// keep the order together, those that run may not settle any more, since the next owner
// does: their outcomes are refused (event.SettlementRefused) and their messages come
// again; what another process gave this one is given out again at once. Where a Drain
// waits already, Stop does nothing.
func (c *Consumer) Stop() {
	if c.none() {
		return
	}
	ctx, cancel := context.WithCancelCause(dispatch.FromCaller(context.Background()))
	cancel(errStopped)
	_ = c.finish(ctx)
}

// errStopped is why Stop does not wait. What is left behind was asked for then.
var errStopped = errors.New("it was stopped")

func (c *Consumer) finish(ctx context.Context) error {
	return c.stopOnce.Do(ctx, func() (err error) {
		if why := c.last(ctx).Drain(ctx); why != nil && !errors.Is(why, errStopped) {
			err = c.unfinished(why)
		}
		c.leaveKeys()
		c.bus.retire(c)
		return err
	}, c.runsCaller, c.unfinished)
}

// last is the present intake, and there will be no other. It ends a Rewind and waits
// for that.
func (c *Consumer) last(ctx context.Context) taking {
	c.end(ErrClosed)
	c.quiescer.Release()
	if unlock, err := c.rewinds.Lock(ctx); err == nil {
		defer unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	return c.in
}

func (c *Consumer) unfinished(why error) error {
	in, _ := c.now()
	e := &DrainError{Subject: c.receiver.pattern, Stream: c.stream, Durable: c.durable, Running: in.InFlight(), Longest: longest(in), Err: why}
	e.Pending, _ = in.Pending()
	return e.whenGivenUp()
}

// now is the present intake, and what those before it did.
func (c *Consumer) now() (taking, tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in, c.past
}

// longest is the handler call of in that has been running for longest.
func longest(in taking) Running {
	run, ok := in.Longest()
	if !ok {
		return Running{}
	}
	return Running{Subject: run.Subject, Sequence: run.Sequence, For: time.Since(run.Since)}
}

// Done returns a channel that is closed when the consumer has ended in this
// process: by Drain, Stop, with the bus, or because it was deleted on the server.
func (c *Consumer) Done() <-chan struct{} {
	if c.none() {
		return closedChan
	}
	return c.stopOnce.Done()
}

// Err is why the consumer ended by itself, as a *StreamError, or nil.
func (c *Consumer) Err() error {
	if c.none() {
		return nil
	}
	in, _ := c.now()
	if err := in.Err(); err != nil {
		return &StreamError{Stream: c.stream, Op: "consume as " + c.durable, Err: err}
	}
	return nil
}

func (c *Consumer) runsCaller(ctx context.Context) bool {
	in, _ := c.now()
	return in.RunsCaller(ctx)
}

// calls counts the handler calls of all intakes.
type calls struct {
	tally
	in taking
}

func (c calls) Begun() int64 { return c.begun + c.in.Begun() }
func (c calls) Ended() int64 { return c.ended + c.in.Ended() }

func (c *Consumer) stats() SubscriptionStats {
	in, past := c.now()
	st := c.receiver.stats(calls{past, in})
	st.Queue, st.Stream, st.Durable = "", c.stream, c.durable
	st.Pending, st.PendingBytes = in.Pending()
	st.InFlight, st.Longest = in.InFlight(), longest(in)
	st.setLag(in.Lag())
	if shared, ok := in.(*sharing); ok {
		st.Owner = shared.Owns()
	}
	return st
}
