package bus

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/consumer"
	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
	"github.com/omnibus-go/bus/stats"
)

// Consumer is one process's part in a durable consumer. Safe for concurrent use. A nil
// Consumer, and one that was not made by Consume, has ended.
type Consumer struct {
	bus    *Bus
	engine *consumer.Consumer
	call   *handlerCall
	cancel context.CancelCauseFunc // of the context of the handlers
	retry  RetryPolicy

	stream, durable string
	deleting        atomic.Bool // the program deletes the durable or its stream, and knows it
}

// Consume has h handle the stored messages of st that match s, each at least once. It starts
// with the first stored message, unless an option StartAt… names another one. durable names
// the consumer on the server. It has 1 to 200 letters, digits, - and _. After a restart the
// consumer continues where it was. All processes that consume with this name share the
// messages.
//
// A message is done when h returns nil. After an error or a panic h is called again for it,
// when Retry says so, and other messages are handled meanwhile. RetryAfter sets the time of
// the next call; Postpone redelivers the message without counting an attempt. The message
// becomes a dead letter (see DeadLetters) when its attempts are used up, when h returns a
// Permanent error, and when it cannot be decoded or is invalid. Msg.Attempt counts the handler
// calls. A call that returns an error after the bus has ended its context does not count: the
// message is returned to the stream. While a message waits or is handled, the bus sends
// in-progress signals, so the server does not redeliver it.
//
// Before each attempt but the first the message is looked up in the stream. If the stream has
// removed it while it waited (MaxAge, TTL, a newer message on its subject, Purge), it is not
// handled again: event.Removed, stats.Subscription.Removed. Messages that were redriven, and those
// in S-retry of a stream that keeps no acknowledged messages, are not looked up.
//
// When a process is killed, the server redelivers what it had after AckWait. On an embedded
// server without a port the next process takes it back at once: nobody else can have it. With
// WithListen others can, and nothing tells their messages from those of the dead process.
//
// All attempts at a message get the same payload and header. A handler that changes the
// bytes of Data, or the Header, must copy them first.
//
// Two side streams of the stream S are made: S-dead keeps the dead letters; S-retry keeps
// messages whose next attempt is far away. ctx bounds the call of Consume only. The consumer
// runs until Drain, Stop or the end of the bus. If the durable is deleted on the server, the
// contexts of the handlers end, and then the consumer. A call that fails leaves no durable that
// did not exist before; for that it may take a second longer than ctx.
//
// Errors: *ConsumerConflictError if the durable exists with another filter that s does not
// contain, is past messages that it did not get, or has settings that do not work for Consume; *OptionError, *SubjectError, ErrStreamNotFound, *StreamError,
// ErrTimeout, ErrClosed.
func Consume[T any](ctx context.Context, st *Stream, durable string, s Subject[T], h Handler[T], opts ...ConsumeOption) (*Consumer, error) {
	if h == nil {
		return nil, badArgument("Consume", "handler", "is nil")
	}
	return st.consume(ctx, durable, consumption{call: "Consume", filters: []string{string(s)}, make: typed(h), of: reflect.TypeFor[T]()}, opts)
}

// Consume is the function Consume for handlers of several types. m calls the handler of each
// message's subject. With a Concurrency of 1 they are called in the order of the stream.
//
// The durable gets the messages for which m has a handler. If m has a Default it gets all
// messages of the stream. A later m may have handlers for more messages, if the durable is not
// past any of those and no other process takes its messages meanwhile. Otherwise it is a
// *ConsumerConflictError with the patterns, and with the first message that would be skipped.
// So is an m with fewer handlers, because some messages would have none. Handlers for messages
// that the durable gets anyway may be added and removed.
//
// KeyBy takes a function of []byte here: the payload before compression.
//
// A message for which m has no handler becomes a dead letter with CauseUnrouted. This happens
// if the handler was removed while the message waited for another attempt.
//
// Errors: those of the function Consume; *SubjectError and *OptionError for what is wrong with
// m. Two patterns that overlap, neither of which contains the other, are a *SubjectError,
// because no durable can have both.
func (s *Stream) Consume(ctx context.Context, durable string, m *Mux, opts ...ConsumeOption) (*Consumer, error) {
	r, err := m.routing("Stream.Consume")
	if err != nil {
		return nil, err
	}
	filters, err := r.filters()
	if err != nil {
		return nil, err
	}
	return s.consume(ctx, durable, consumption{call: "Stream.Consume", filters: filters, routes: true, make: r.shareOut, of: reflect.TypeFor[[]byte]()}, opts)
}

// consumption is what a call of Consume, ConsumeBatch or Stream.Consume asks for.
type consumption struct {
	call    string // the user's
	filters []string
	routes  bool // make refuses subjects that it has no handler for
	make    maker
	of      reflect.Type // what the handler takes
	batch   batchHandler // nil for a handler of one message
}

// batchHandler handles several messages at once.
type batchHandler interface {
	// run makes one attempt at each message of a batch of c and sets as many outcomes.
	run(c *Consumer, ds []wire.Delivery, outcomes []settle.Outcome)
	// limit sets the time for the handling of a whole batch; 0 means no limit.
	limit(time.Duration)
}

// consume starts a consumer of what matches one of the filters.
func (s *Stream) consume(ctx context.Context, durable string, want consumption, opts []ConsumeOption) (*Consumer, error) {
	done, err := s.enter(ctx, want.call)
	if err != nil {
		return nil, err
	}
	defer done()
	o := newConsumeOptions()
	_ = applyAll(opts, o, ConsumeOption.onConsume) // what is wrong is returned with the rest
	o.completeBatch(want.call, want.batch != nil)
	o.checkCall(durable, want)
	if err := o.joined(); err != nil {
		return nil, err
	}
	ctx, cancel := s.bus.core.WithTimeout(ctx)
	defer cancel()
	for _, filter := range want.filters {
		if err := s.checkMayHave(ctx, filter); err != nil {
			return nil, err
		}
	}
	o.group.name = durable
	if want.batch != nil {
		want.batch.limit(o.timeout)
		o.timeout = 0
	}
	call, err := s.bus.newHandlerCall(strings.Join(want.filters, " "), &o.handlerOptions, want.make)
	if err != nil {
		return nil, err
	}
	c := &Consumer{bus: s.bus, call: call, retry: o.retry, stream: s.name, durable: durable}
	call.ctx, c.cancel = context.WithCancelCause(call.ctx)
	if err := c.open(ctx, s, want, o); err != nil {
		c.cancel(nil)
		return nil, err
	}
	return c, nil
}

// checkCall adds what is wrong with the name and the patterns of a call, and with the key.
func (o *consumeOptions) checkCall(durable string, want consumption) {
	if !streamName.MatchString(durable) {
		o.addError(badName(want.call+" durable", durable))
	}
	for _, filter := range want.filters {
		if err := checkPattern(filter); err != nil {
			o.addError(err)
			continue
		}
		o.checkToken(filter)
	}
	o.checkKey(want.of)
}

// open declares the durable, registers c and starts it.
func (c *Consumer) open(ctx context.Context, s *Stream, want consumption, o *consumeOptions) error {
	engine, err := consumer.Open(ctx, c.config(s, want, o))
	if errors.Is(err, consumer.ErrKeysHeld) {
		return &OptionError{Option: o.key.option, Value: o.key.name, Reason: fmt.Sprintf(
			"this bus has a consumer with keys of durable %q of stream %q already; end that one first, or give it more Concurrency; several consumers can share a durable with keys if the bus has a port (WithListen)", c.durable, c.stream)}
	}
	if err != nil {
		return c.publicError(err)
	}
	c.engine = engine
	if err := c.bus.registry.Add(lifecycle.StageSubscribers, c, engine.Quiescer()); err != nil {
		engine.Abort(ctx)
		c.engine = nil
		return translate(err)
	}
	engine.Start()
	return nil
}

// config describes the consumer to the engine.
func (c *Consumer) config(s *Stream, want consumption, o *consumeOptions) consumer.Config {
	cfg := consumer.Config{
		Core: s.bus.core, Holders: &s.bus.keyHolders,
		Stream: s.side, Durable: c.durable, Filters: want.filters, Routes: want.routes, Start: o.start,
		Concurrency: o.concurrency, Interval: o.interval, AckWait: o.ackWait,
		Policy: o.retry.policy(), MaxCrashes: max(o.retry.MaxCrashes, 0),
		Handler: consumer.Handler{Run: c.run, Exited: c.exited, Cause: func(err error) string { return string(c.retry.causeOf(err)) },
			Context: c.call.ctx, Pattern: c.call.pattern, Counters: &c.call.counters},
		Report: c.report,
		Ended:  c.ended, Deleted: func() { c.cancel(c.Err()) },
		DrainError: func(e *consumer.UnfinishedError) error {
			return &DrainError{Subject: c.call.pattern, Stream: c.stream, Durable: c.durable,
				Pending: e.Pending, Running: e.Running, Longest: running(e.Longest), Err: e.Err}
		},
	}
	if o.key.make != nil {
		cfg.Key = consumer.Key{Name: o.key.name, Of: o.key.make(s.bus.format, &o.handlerOptions), Block: o.key.follow()}
	}
	if want.batch != nil {
		cfg.Batch = consumer.Batch{Size: o.batch.size, Wait: *o.batch.wait,
			Run: func(ds []wire.Delivery, outcomes []settle.Outcome) { want.batch.run(c, ds, outcomes) }}
	}
	return cfg
}

// run makes one attempt at d. A worker of the engine calls it.
func (c *Consumer) run(d wire.Delivery) settle.Outcome {
	return c.outcome(c.handle(c.call.ctx, d))
}

// handle calls the handler for d in ctx, and returns how it failed.
func (c *Consumer) handle(ctx context.Context, d wire.Delivery) (err error) {
	if d.Stored.Deliveries > 1 && d.Stored.Attempt == 1 {
		c.call.counters.Redelivered.Add(1)
		c.bus.core.Telemetry.Redelivered(c.call.pattern, c.durable, 1)
	}
	d.Stored.Context, err = c.call.callIn(ctx, newRaw(&d.In, d.Stored), d.Number)
	return err
}

// exited returns the outcome of an attempt at a message whose handler ended its goroutine.
// The goroutine that ends calls it.
func (c *Consumer) exited(wire.Delivery) settle.Outcome {
	return c.outcome(errExited)
}

// outcome returns what the end of a handler call means. A call that the end of the bus cut
// off says nothing about its message.
func (c *Consumer) outcome(err error) settle.Outcome {
	o := c.retry.outcome(err)
	if err != nil && c.call.ctx.Err() != nil {
		o.Returned = true
	}
	return o
}

// ended is called when the consumer has ended. Handlers that it did not wait for keep their
// context until the bus stops.
func (c *Consumer) ended() {
	if c.engine.Stats().InFlight == 0 {
		c.cancel(nil)
	}
	c.bus.retired.retire(c)
}

// report reports an event of the engine.
func (c *Consumer) report(e event.Event) {
	if e.Kind == event.ConsumerStalled && c.deleting.Load() {
		return // Err says it
	}
	switch e.Kind {
	case event.ConsumerStalled, event.DeadLetterFailed, event.OwnershipLost, event.SettlementRefused:
		e.Err = c.publicError(e.Err)
	}
	c.bus.report(e)
}

// publicError makes the public errors of what the engine of a consumer returns.
func (c *Consumer) publicError(err error) error {
	switch e := err.(type) { //nolint:errorlint // the engine does not wrap its errors
	case nil:
		return nil
	case interface{ Unwrap() []error }: // joined
		var all []error
		for _, err := range e.Unwrap() {
			all = append(all, c.publicError(err))
		}
		return errors.Join(all...)
	case *consumer.ConflictError:
		public := &ConsumerConflictError{Stream: c.stream, Durable: c.durable, MissingFilters: e.MissingFilters, ExtraFilters: e.ExtraFilters, FirstSkipped: e.FirstSkipped, InUse: e.InUse,
			own: slices.ContainsFunc(c.bus.registry.Members(), func(m lifecycle.Member) bool { return c.shares(m) })}
		for _, f := range e.Fields {
			public.Fields = append(public.Fields, FieldChange{Field: f.Field, Have: f.Have, Want: f.Want})
		}
		return public
	case *consumer.RewindError:
		return &ConsumerError{Op: "rewind", Stream: c.stream, Durable: c.durable, Sequence: e.Sequence,
			Messages: e.Messages, Running: e.Running, Longest: running(e.Longest), Reason: e.Reason, Err: e.Err}
	}
	if err == consumer.ErrEnded { //nolint:errorlint // likewise
		return ErrClosed
	}
	return translate(err)
}

// shares reports whether m is another consumer of the durable of c.
func (c *Consumer) shares(m lifecycle.Member) bool {
	other, ok := m.(*Consumer)
	return ok && other != c && other.stream == c.stream && other.durable == c.durable
}

// running makes the public form of a handler call that has not returned.
func running(r dispatch.Run) stats.Call {
	if r.Since.IsZero() {
		return stats.Call{}
	}
	return stats.Call{Subject: r.Subject, Sequence: r.Sequence, Duration: time.Since(r.Since)}
}

// endedBy implements durableMember.
func (c *Consumer) endedBy() (durableName, error) { return durableName{c.stream, c.durable}, c.Err() }

// Err returns why the consumer ended by itself, as a *StreamError, or nil.
func (c *Consumer) Err() error {
	if c.isZero() {
		return nil
	}
	if err := c.engine.Err(); err != nil {
		return &StreamError{Stream: c.stream, Op: "consume as " + c.durable, Err: err}
	}
	return nil
}
