package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/streamdef"
)

// Rewind sends the durable back: all that is stored from to on, and matches, is handled
// once more, by whichever member gets it. to is StartAtFirst(), StartAtSequence(n) or
// StartAtTime(t). It begins earlier than that where a message before it is unfinished,
// so that nothing is passed over.
//
// The server judges an acknowledgement by the message's sequence alone: that of a
// message sent before would count for what is sent again. So Rewind pauses the durable,
// waits for the handlers that run here, and until the other members have finished what
// they hold; then it goes back, and the pause ends. When ctx ends first (the bus's
// drain timeout, if it has no deadline) nothing has changed and the error is an
// *ConsumerError. A pause that was there before stays, and what others say with Pause
// or Resume meanwhile holds.
//
// Dead letters, and messages that wait in S-retry for their next attempt, stay where
// they are; those at or after to are handled for both reasons. One that died before
// and dies again stays the dead letter that it was. On streams that remove what was
// acknowledged there is nothing to go back to.
//
// Errors: *ConsumerError for a place before the durable's start or beyond what it has
// got to, for a call from one of its handlers, and for keys on a server that others
// can reach, where processes keep the order together; *OptionError for
// another to; *UnsupportedError before nats-server 2.14; *StreamError, ErrTimeout, ErrClosed.
func (c *Consumer) Rewind(ctx context.Context, to StartOption) error {
	if err := c.callable(ctx, "Rewind"); err != nil {
		return err
	}
	if err := to.check("Rewind"); err != nil {
		return err
	}
	if to.start.kind != startFirst && to.start.kind != startSequence && to.start.kind != startTime {
		return &OptionError{Option: "Rewind", Value: startOf(to.start.config()), Reason: "use StartAtFirst, StartAtSequence or StartAtTime"}
	}
	if err := c.bus.needs("Rewind", levelRewind, "2.14"); err != nil {
		return err
	}
	if c.runsCaller(dispatch.FromCaller(ctx)) {
		return &ConsumerError{Op: "rewind", Stream: c.stream, Durable: c.durable, Sequence: to.start.sequence, Reason: "it was called from a handler of this consumer and would wait for that; call it from elsewhere"}
	}
	if _, alone := c.own(); !alone {
		return &ConsumerError{Op: "rewind", Stream: c.stream, Durable: c.durable, Sequence: to.start.sequence, Reason: "processes that keep an order by key together cannot go back; make another durable with StartAtSequence"}
	}
	ctx, cancel := c.bus.core.WithDrainTimeout(ctx)
	defer cancel()
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	defer context.AfterFunc(c.life, func() { abort(ErrClosed) })()
	unlock, err := c.rewinds.Lock(ctx)
	if err != nil {
		return c.rewound(ctx, err)
	}
	defer unlock()
	return c.rewound(ctx, c.rewind(ctx, to.start))
}

// own is the present intake, unless it is shared with other processes.
func (c *Consumer) own() (in *intake.Durable, alone bool) {
	now, _ := c.now()
	in, alone = now.(*intake.Durable)
	return in, alone
}

// rewound is err, with the end of the consumer instead of what that led to.
func (c *Consumer) rewound(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), ErrClosed) {
		return c.bus.opError("Rewind", c.durable, ErrClosed)
	}
	return err
}

func (c *Consumer) rewind(ctx context.Context, to start) error {
	info, err := c.info(ctx)
	if err != nil {
		return err
	}
	target, err := c.target(ctx, to, info)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	before := pausedUntil(info)
	own := later(before, deadline.Add(time.Second))
	if err := c.pauseSelf(ctx, own); err != nil {
		return err // should this process die, the pause ends soon
	}
	err = c.goBack(ctx, target)
	rest, cancel := c.bus.core.WithTimeout(context.WithoutCancel(ctx))
	defer cancel()
	return errors.Join(err, c.unpause(rest, own, before))
}

// unpause puts the pause that was there before in the place of Rewind's own, unless
// somebody has called Pause or Resume meanwhile.
func (c *Consumer) unpause(ctx context.Context, own, before time.Time) error {
	info, err := c.info(ctx)
	if err != nil || !pausedUntil(info).Equal(own) {
		return err
	}
	return c.pauseSelf(ctx, before)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (c *Consumer) pauseSelf(ctx context.Context, until time.Time) error {
	if err := c.pauseOn(ctx, c.stream, until); err != nil {
		return streamError(c.stream, "rewind "+c.durable, err)
	}
	return nil
}

// info is what the server says of the durable.
func (c *Consumer) info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	con, err := c.bus.core.JetStream.Consumer(ctx, c.stream, c.durable)
	if err != nil {
		return nil, streamError(c.stream, "rewind "+c.durable, err)
	}
	return con.CachedInfo(), nil
}

// target is the sequence to go back to.
func (c *Consumer) target(ctx context.Context, to start, info *jetstream.ConsumerInfo) (uint64, error) {
	st, err := c.bus.core.JetStream.Stream(ctx, c.stream)
	if err != nil {
		return 0, streamError(c.stream, "rewind "+c.durable, err)
	}
	sequence := max(to.sequence, 1)
	if to.kind == startTime {
		if sequence, err = streamdef.FirstSince(ctx, st, to.time); err != nil {
			return 0, streamError(c.stream, "rewind "+c.durable, err)
		}
	}
	e := &ConsumerError{Op: "rewind", Stream: c.stream, Durable: c.durable, Sequence: sequence}
	switch last := st.CachedInfo().State.LastSeq; {
	case sequence > 1 && sequence > last:
		e.Reason = fmt.Sprintf("the stream ends with %d", last)
	case sequence > info.Delivered.Stream+1:
		e.Reason = fmt.Sprintf("the durable has got no further than to %d", info.Delivered.Stream)
	default:
		return sequence, nil
	}
	return 0, e
}

// goBack goes back to target, or to the first message that is unfinished, while the
// durable is paused.
func (c *Consumer) goBack(ctx context.Context, target uint64) error {
	old, _ := c.own()
	if err := old.Quiesce(ctx); err != nil {
		old.Resume()
		return c.stillRunning(err)
	}
	info, err := c.alone(ctx, old)
	if err == nil {
		err = c.reset(ctx, min(target, info.AckFloor.Stream+1))
	}
	if err == nil {
		err = c.renew(ctx, old)
	}
	if err != nil {
		old.Resume()
	}
	return err
}

func (c *Consumer) stillRunning(err error) error {
	in, _ := c.now()
	e := &ConsumerError{Op: "rewind", Stream: c.stream, Durable: c.durable, Longest: longest(in), Err: err}
	if running, ok := errors.AsType[*dispatch.RunningError](err); ok {
		e.Running, e.Err = running.Running, running.Err
	}
	return e
}

// betweenLooks is how often Rewind asks whether others have finished.
const betweenLooks = 20 * time.Millisecond

// alone waits until no message is unfinished but those that in holds, and has not
// begun.
func (c *Consumer) alone(ctx context.Context, in *intake.Durable) (*jetstream.ConsumerInfo, error) {
	for others := 0; ; {
		info, err := c.info(ctx)
		if err == nil {
			if others = info.NumAckPending - in.Held(); others <= 0 {
				return info, nil
			}
			err = pauseFor(ctx, betweenLooks)
		}
		switch {
		case err == nil:
		case ctx.Err() != nil && others > 0:
			return nil, &ConsumerError{Op: "rewind", Stream: c.stream, Durable: c.durable, Messages: others, Err: context.Cause(ctx)}
		default:
			return nil, err
		}
	}
}

// pauseFor waits for d, or returns why ctx has ended.
func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reset does not stop halfway when the consumer ends: whether it was done must be known.
func (c *Consumer) reset(ctx context.Context, sequence uint64) error {
	ctx, cancel := c.bus.core.WithTimeout(context.WithoutCancel(ctx))
	defer cancel()
	_, err := c.bus.core.JetStream.ResetConsumerToSequence(ctx, c.stream, c.durable, sequence)
	if errors.Is(err, jetstream.ErrConsumerInvalidReset) {
		return &ConsumerError{Op: "rewind", Stream: c.stream, Durable: c.durable, Sequence: sequence, Reason: "the durable was made to begin later"}
	}
	if err != nil {
		return streamError(c.stream, "rewind "+c.durable, err)
	}
	return nil
}

// renew takes messages in afresh: what old holds will be sent again.
func (c *Consumer) renew(ctx context.Context, old *intake.Durable) error {
	fresh, err := intake.OpenDurable(c.bus.core.Link, c.intake)
	if err != nil {
		return translate(err)
	}
	c.mu.Lock()
	ended := c.ended
	if !ended {
		c.in = fresh
		c.past.begun += old.Begun()
		c.past.ended += old.Ended()
	}
	c.mu.Unlock()
	if ended {
		_ = fresh.Drain(ctx)
		return ErrClosed
	}
	_ = old.Forget(ctx) // nothing runs in it
	fresh.Start()
	return nil
}
