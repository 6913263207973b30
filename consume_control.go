package bus

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/consumer"
	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/stats"
)

// isZero reports whether c is nil or was not made by Consume. Then it has ended.
func (c *Consumer) isZero() bool { return c == nil || c.engine == nil }

// callable returns an error if a call on the consumer can do nothing.
func (c *Consumer) callable(ctx context.Context, call string) error {
	if c.isZero() {
		return badArgument(call, "consumer", "is nil; did Consume fail?")
	}
	if err := c.bus.ready(ctx, call); err != nil {
		return err
	}
	if c.engine.Ending() {
		return c.bus.opError(call, c.durable, ErrClosed)
	}
	return nil
}

// Drain ends the consumer in this process. It takes no more messages, returns those that were
// not started to the stream, waits for the running handlers, and until the server has their
// acknowledgements. If ctx ends first, Drain ends the consumer at once and returns a
// *DrainError; unfinished messages are redelivered. Without a deadline of ctx the bus's drain
// timeout holds. If a handler of this consumer calls Drain, it does not wait for that handler.
// Further calls wait for the first one.
func (c *Consumer) Drain(ctx context.Context) error {
	if c.isZero() {
		return nil
	}
	if ctx == nil {
		return noContext("Drain")
	}
	ctx, cancel := c.bus.core.WithDrainTimeout(dispatch.FromCaller(ctx))
	defer cancel()
	return c.engine.Drain(ctx)
}

// Stop ends the consumer in this process without waiting for its handlers. It takes no more
// messages and returns those that were not started to the stream. Running handlers may finish
// and settle their messages. But no in-progress signals are sent for these messages, so the
// server may redeliver them after AckWait.
//
// With keys, if several processes can keep the order together, running handlers cannot settle
// their messages: the next owner does that. Their outcomes are refused
// (event.SettlementRefused) and their messages are redelivered. Messages that another process
// assigned to this one are assigned again at once. If handlers run when the owner stops, the next
// owner comes after a third of AckWait, and begins when their messages are redelivered, which is
// after AckWait; Drain hands over at once. If Drain is waiting already, Stop does nothing.
func (c *Consumer) Stop() {
	if !c.isZero() {
		c.engine.Stop()
	}
}

// Done returns a channel that is closed when the consumer has ended in this process: by Drain,
// Stop or the end of the bus, or because the consumer was deleted on the server.
func (c *Consumer) Done() <-chan struct{} {
	if c.isZero() {
		return closedChan
	}
	return c.engine.Done()
}

// Pause has the server send no messages of the durable to any process until a time, also none
// that wait for another attempt. The zero time means until Resume, and so
// does a time in more than 100 years. A pause outlives the processes and a restart of the
// server. Messages that a process has taken are still handled: about as many as it handles in a
// second. Consumer.Lag reports a pause.
//
// Errors: *UnsupportedError before nats-server 2.11, *OptionError for a time that has passed,
// *StreamError, ErrTimeout, ErrClosed.
func (c *Consumer) Pause(ctx context.Context, until time.Time) error {
	if err := c.callable(ctx, "Pause"); err != nil {
		return err
	}
	if latest := time.Now().Add(farthest); until.IsZero() || until.After(latest) {
		until = latest
	}
	if !until.After(time.Now()) {
		return badArgument("Pause", "until", "has passed: "+until.Format(time.RFC3339))
	}
	return c.pause(ctx, serverversion.Pause, until)
}

// Resume ends a Pause, also one of another process. Errors are those of Pause.
func (c *Consumer) Resume(ctx context.Context) error {
	if err := c.callable(ctx, "Resume"); err != nil {
		return err
	}
	return c.pause(ctx, serverversion.Resume, time.Time{})
}

func (c *Consumer) pause(ctx context.Context, call serverversion.Feature, until time.Time) error {
	done, err := c.bus.enter(ctx, call.Call)
	if err != nil {
		return err
	}
	defer done()
	if err := c.bus.checkServer(call); err != nil {
		return err
	}
	return c.publicError(c.engine.Pause(ctx, call.Call, until))
}

// Rewind sends the durable back: all matching messages that are stored from to on are handled
// again, by any of its processes. to is StartAtFirst(), StartAtSequence(n) or StartAtTime(t).
// If an earlier message is unfinished, Rewind goes back to that one, so no message is skipped.
//
// The server judges an acknowledgement by the sequence of its message alone. A late one would
// count for the message that is sent again. So Rewind pauses the durable, waits for the
// handlers of this process, and until the other processes have finished what they have. Then
// it sends the durable back and ends the pause. If ctx ends first nothing has changed, and the
// error is a *ConsumerError with the unfinished messages. Without a deadline of ctx the bus's
// drain timeout holds. An earlier pause stays. A Pause or Resume meanwhile takes effect.
//
// Dead letters, and messages in S-retry that wait for another attempt, stay. Such a message
// at or after the target is handled for its own reason and once more for the rewind. A
// message that becomes a dead letter again replaces its dead letter. If the stream removes
// acknowledged messages, they cannot be handled again.
//
// Errors: *ConsumerError if the target is earlier than the start of the durable or later
// than its position, if a handler of this consumer calls Rewind, and for a durable with keys
// on a server that several processes can reach; *OptionError for another to;
// *UnsupportedError before nats-server 2.14; *StreamError, ErrTimeout, ErrClosed.
func (c *Consumer) Rewind(ctx context.Context, to StartOption) error {
	if err := c.callable(ctx, "Rewind"); err != nil {
		return err
	}
	if err := to.check("Rewind"); err != nil {
		return err
	}
	if !to.names() {
		return &OptionError{Option: "Rewind", Value: to.start.String(), Reason: "use StartAtFirst, StartAtSequence or StartAtTime"}
	}
	if err := c.bus.checkServer(serverversion.Rewind); err != nil {
		return err
	}
	err := c.engine.Rewind(ctx, to.start)
	if err == consumer.ErrEnded { //nolint:errorlint // it is never wrapped
		return c.bus.opError("Rewind", c.durable, ErrClosed)
	}
	return c.publicError(err)
}

// Lag is how far a durable consumer is behind, in all its processes together. It counts
// neither messages in S-retry nor dead letters.
type Lag struct {
	Waiting    int       // messages that were sent to no process yet
	Unfinished int       // messages that a process has and has not finished
	Oldest     time.Time // when the oldest of all these was stored; zero if there are none

	PausedUntil time.Time // when Pause ends; zero if the durable is not paused
}

// Lag asks the server how far the durable is behind, also after Drain. Stats has the lag as
// the bus knows it, without asking the server: up to 10 s old, or up to a minute if there
// was nothing to do. The server counts a message just after it has confirmed it: Waiting may
// be a few lower at that moment, but it is not zero while a message waits. Errors:
// *OptionError, *StreamError, ErrStreamNotFound, ErrTimeout, ErrClosed.
func (c *Consumer) Lag(ctx context.Context) (Lag, error) {
	if c.isZero() {
		return Lag{}, badArgument("Consumer.Lag", "consumer", "is nil; did Consume fail?")
	}
	done, err := c.bus.enter(ctx, "Consumer.Lag")
	if err != nil {
		return Lag{}, err
	}
	defer done()
	l, err := c.engine.Lag(ctx)
	return Lag(l), c.publicError(err)
}

// runsCaller reports whether the caller that ctx names is one of the handlers.
func (c *Consumer) runsCaller(ctx context.Context) bool { return c.engine.RunsCaller(ctx) }

// beginAndEnd is the number of handler calls that began and ended.
type beginAndEnd struct{ begun, ended int64 }

func (n beginAndEnd) Begun() int64 { return n.begun }
func (n beginAndEnd) Ended() int64 { return n.ended }

// stats returns the statistics of the consumer, for Stats and Health.
func (c *Consumer) stats() stats.Subscription {
	s := c.engine.Stats()
	st := c.call.stats(beginAndEnd{s.Begun, s.Ended})
	st.Queue, st.Stream, st.Durable = "", c.stream, c.durable
	st.Pending, st.PendingBytes, st.InFlight, st.Longest = s.Pending, s.PendingBytes, s.InFlight, running(s.Longest)
	st.Lag, st.Owner = s.Lag, s.Owner
	if !s.OldestPending.IsZero() {
		st.OldestAge = max(time.Since(s.OldestPending), 0)
	}
	return st
}

// load returns the state of the consumer for Health.
func (c *Consumer) load() load {
	l := c.call.load(c.stats())
	l.stalled = c.publicError(c.engine.Stalled())
	l.refused = c.publicError(c.engine.Refused())
	l.deadLetter = c.publicError(c.engine.DeadLetterFailure())
	return l
}
