package consumer

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/recovery"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// intakeConfig describes the intake of a durable with a configuration.
func (c *Consumer) intakeConfig(config jetstream.ConsumerConfig) intake.DurableConfig {
	stream, durable := c.cfg.Stream.Name, c.cfg.Durable
	ic := intake.DurableConfig{
		Source: intake.Source{
			Next:    nextSubject(stream, durable),
			Info:    infoSubject(stream, durable),
			Acks:    "$JS.ACK." + stream + "." + durable,
			MaxHeld: maxAckPending(config),

			Get: "$JS.API.STREAM.MSG.GET." + stream, Filter: subject.Covering(c.cfg.Filters),
		},
		More:        []intake.Source{c.retries()},
		Concurrency: c.cfg.Concurrency,
		Window:      8,
		AckWait:     intake.EffectiveAckWait(config.AckWait, config.Metadata),
		Key:         c.cfg.Key.Of,
		Policy:      c.cfg.Policy,
		Timeout:     c.cfg.Core.Timeout,
		Interval:    c.cfg.Interval,
		Run:         c.cfg.Handler.Run,
		Exited:      c.cfg.Handler.Exited,
		Stopping:    c.cfg.Core.Stopping,
		IsRemoved:   c.isRemoved,
		Retrying:    c.retrying,
		Report:      c.stalled,
		Settling:    c.settling,
	}
	if c.side.CanDefer {
		ic.DeferRetry = func(ctx context.Context, d wire.Delivery, at time.Time) error { return c.side.DeferRetry(ctx, &d, at) }
	}
	if b := c.cfg.Batch; b.Size > 0 {
		ic.Batch = intake.Batch{Size: b.Size, Wait: b.Wait, Run: b.Run}
		ic.Run = func(d wire.Delivery) settle.Outcome {
			outcome := []settle.Outcome{{}}
			b.Run([]wire.Delivery{d}, outcome)
			return outcome[0]
		}
	}
	return ic
}

// retries returns the source of the messages that come back. Everybody who may publish to
// S-retry can put a message there. If it is none of the durable it becomes a dead letter:
// somebody should look at it.
func (c *Consumer) retries() intake.Source {
	source := c.side.Source()
	restore := source.Restore
	source.Restore = func(d *wire.Delivery) error {
		if err := restore(d); err != nil {
			return err
		}
		if err := c.checkOurs(d); err != nil {
			d.Stored.Dead = err
			d.Stored.Attempt-- // the handler is not called
		}
		return nil
	}
	return source
}

// checkOurs returns why d, which did not come from the durable itself, is none of its messages.
func (c *Consumer) checkOurs(d *wire.Delivery) error {
	stream, filters := c.cfg.Stream.Name, c.cfg.Filters
	if d.Stored.Stream == stream && (c.cfg.Routes || slices.ContainsFunc(filters, func(f string) bool { return subject.Matches(f, d.Subject) })) {
		return nil
	}
	return &ForeignError{Stream: d.Stored.Stream, Subject: d.Subject, Durable: c.cfg.Durable, Filters: filters}
}

// openRecovery gives an intake the recovery log of the durable, as it is now.
func (c *Consumer) openRecovery(ctx context.Context, ic *intake.DurableConfig) error {
	log, err := recovery.Open(ctx, recovery.Config{Core: c.cfg.Core, Store: c.side, Stream: c.cfg.Stream.Name,
		MaxCrashes: c.cfg.MaxCrashes, Keyed: c.cfg.Key.Of != nil, BlockKeys: c.cfg.Key.Block,
		Cause: c.cfg.Handler.Cause, Handlers: c.cfg.Handler.Context})
	if err != nil {
		return err
	}
	ic.Recovery = log
	followers, err := c.side.OpenFollowers(ctx, c.cfg.Key.Of != nil, c.shared.Load())
	if err != nil {
		return err
	}
	if c.cfg.Key.Of != nil {
		ic.Followers = followers
	}
	if followers.Strays() {
		c.returnStrays(followers)
	}
	ic.WriteDeadLetter = func(d wire.Delivery) error { return c.writeDeadLetter(d, log) }
	return nil
}

// returnStrays returns strays in the background, unless the consumer has ended. The end waits
// for it.
func (c *Consumer) returnStrays(f *sidestream.Followers) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.strays.Go(func() { f.ReturnStrays(c.life) })
	}
}

// event returns an event about a message of the consumer.
func (c *Consumer) event(kind event.Kind, d *wire.Delivery, err error) event.Event {
	return event.Event{Kind: kind, Subject: d.Subject, Stream: c.cfg.Stream.Name, Durable: c.cfg.Durable,
		Sequence: d.Stored.Sequence, Attempt: d.Stored.Attempt, Err: err}
}

// retrying reports that d failed with err and will be tried again. The intake calls it.
func (c *Consumer) retrying(d wire.Delivery, err error) { c.cfg.Report(c.event(event.Retry, &d, err)) }

// writeDeadLetter stores d, which will not be handled, as a dead letter, and reports that. The
// intake calls it on a worker, again and again until it succeeds.
// While the server has no room it tries with one message at a time.
func (c *Consumer) writeDeadLetter(d wire.Delivery, log *recovery.Log) error {
	h := c.cfg.Handler
	cause := h.Cause(d.Stored.Dead)
	if err := c.letterPace.wait(); err != nil {
		return err
	}
	if err := c.side.PutDeadLetter(h.Context, &d, cause); err != nil {
		c.deadLetterFailure.Store(&err)
		if c.letterPace.failed(d.Stored.Sequence, err) {
			c.cfg.Report(c.event(event.DeadLetterFailed, &d, err))
		}
		return err
	}
	c.deadLetterFailure.Store(nil)
	c.letterPace.succeeded(d.Stored.Sequence)
	log.RecordDeadLetter(&d)
	h.Counters.DeadLetters.Add(1)
	c.cfg.Core.Telemetry.DeadLettered(h.Pattern, c.cfg.Durable, cause)
	c.cfg.Report(c.event(event.DeadLetter, &d, d.Stored.Dead))
	return nil
}

// stalled reports that no messages come, and ends the consumer if none will. The intake calls
// it.
func (c *Consumer) stalled(err error) {
	e := event.Event{Kind: event.ConsumerStalled, Stream: c.cfg.Stream.Name, Durable: c.cfg.Durable, Err: err}
	if stuck, ok := errors.AsType[*intake.KeyStuck](err); ok {
		e.Kind, e.Subject, e.Sequence = event.KeyStuck, stuck.Subject, stuck.Sequence
	}
	if _, odd := errors.AsType[*intake.RejectedError](err); odd {
		e.Kind = event.OddRecord
	}
	if unreadable, ok := errors.AsType[*intake.UnreadableError](err); ok {
		e.Kind, e.Sequence = event.OddRecord, unreadable.Sequence
	}
	c.cfg.Report(e)
	if errors.Is(err, intake.ErrConsumerDeleted) {
		c.cfg.Deleted()
		go func() { // ends with the intake, which Shutdown waits for too
			ctx, cancel := c.cfg.Core.WithDrainTimeout(context.Background())
			defer cancel()
			_ = c.Drain(ctx)
		}()
	}
}

// settling traces a settlement. The function that it returns ends the span.
func (c *Consumer) settling(d wire.Delivery, name string) (end func(error)) {
	tel := c.cfg.Core.Telemetry
	if tel == nil {
		return func(error) {}
	}
	ctx := d.Stored.Context
	if ctx == nil { // its handler, if any, ran elsewhere
		ctx = context.Background()
	}
	_, span := tel.Settle(ctx, telemetry.Op{Name: name, Subject: d.Subject, Template: c.cfg.Handler.Pattern, Group: c.cfg.Durable})
	return span.End
}
