package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/streamdef"
)

// Rewind sends the durable back to where to says, or to the first unfinished message if that
// is earlier. Errors are *RewindError, *jserr.Error, and ErrEnded; several are joined. One
// Rewind runs at a time; the end of the consumer ends it.
func (c *Consumer) Rewind(ctx context.Context, to Start) error {
	if c.RunsCaller(dispatch.FromCaller(ctx)) {
		return &RewindError{Sequence: to.Sequence, Reason: "it was called from a handler of this consumer, for which it would wait; call it outside the handlers"}
	}
	if _, alone := c.own(); !alone {
		return &RewindError{Sequence: to.Sequence, Reason: "several processes can share this durable with keys, and such a durable cannot go back; create another durable with StartAtSequence"}
	}
	ctx, cancel := c.cfg.Core.WithDrainTimeout(ctx)
	defer cancel()
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	defer context.AfterFunc(c.life, func() { abort(ErrEnded) })()
	unlock, err := c.rewinds.Lock(ctx)
	if err == nil {
		defer unlock()
		err = c.rewind(ctx, to)
	}
	if err != nil && errors.Is(context.Cause(ctx), ErrEnded) {
		return ErrEnded // and not what that led to
	}
	return err
}

// own returns the present intake. alone is false if the durable is shared.
func (c *Consumer) own() (in *intake.Durable, alone bool) {
	t, _ := c.current()
	in, alone = t.(*intake.Durable)
	return in, alone
}

// rewind pauses the durable, sends it back, and ends the pause. It holds c.rewinds.
func (c *Consumer) rewind(ctx context.Context, to Start) error {
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
	own := deadline.Add(time.Second)
	if before.After(own) {
		own = before
	}
	if err := c.pauseStream(ctx, own); err != nil {
		return err // should this process die, the pause ends soon
	}
	fresh, err := c.goBack(ctx, target)
	rest, cancel := c.cfg.Core.WithTimeout(context.WithoutCancel(ctx))
	defer cancel()
	err = errors.Join(err, c.unpause(rest, own, before))
	if fresh != nil {
		fresh.Start()
	}
	return err
}

// unpause replaces Rewind's own pause by the one that was there before, unless somebody has
// called Pause or Resume meanwhile. It waits until the consumer's server knows: in a cluster that
// takes a moment. Until then it still shows the state before the pause, and what is asked of it
// waits for its next heartbeat.
func (c *Consumer) unpause(ctx context.Context, own, before time.Time) error {
	info, err := c.info(ctx)
	if err != nil || !pausedUntil(info).Equal(own) && !pausedUntil(info).Equal(before) {
		return err
	}
	if err := c.pauseStream(ctx, before); err != nil || own.Equal(before) {
		return err
	}
	for {
		info, err := c.info(ctx)
		if err != nil || !pausedUntil(info).Equal(own) {
			return err
		}
		if err := sleep(ctx, pollInterval); err != nil {
			return err
		}
	}
}

func (c *Consumer) pauseStream(ctx context.Context, until time.Time) error {
	return c.rewindFailed(c.pauseOn(ctx, c.cfg.Stream.Name, until))
}

// rewindFailed returns err, of a request to the server, as the error of Rewind.
func (c *Consumer) rewindFailed(err error) error {
	return jserr.Wrap(c.cfg.Stream.Name, "rewind "+c.cfg.Durable, err)
}

// info returns what the server knows of the durable.
func (c *Consumer) info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	con, err := c.cfg.Core.JetStream.Consumer(ctx, c.cfg.Stream.Name, c.cfg.Durable)
	if err != nil {
		return nil, c.rewindFailed(err)
	}
	return con.CachedInfo(), nil
}

// target returns the sequence to go back to.
func (c *Consumer) target(ctx context.Context, to Start, info *jetstream.ConsumerInfo) (uint64, error) {
	st, err := c.cfg.Core.JetStream.Stream(ctx, c.cfg.Stream.Name)
	if err != nil {
		return 0, c.rewindFailed(err)
	}
	sequence := max(to.Sequence, 1)
	if to.Kind == StartTime {
		if sequence, err = streamdef.FirstSince(ctx, st, to.Time); err != nil {
			return 0, c.rewindFailed(err)
		}
	}
	e := &RewindError{Sequence: sequence}
	switch last := st.CachedInfo().State.LastSeq; {
	case sequence > 1 && sequence > last:
		e.Reason = fmt.Sprintf("the stream ends with %d", last)
	case sequence > info.Delivered.Stream+1:
		e.Reason = fmt.Sprintf("the durable has only reached %d", info.Delivered.Stream)
	default:
		return sequence, nil
	}
	return 0, e
}

// goBack goes back to target, or to the first unfinished message, while the durable is
// paused. It returns the new intake, which is not started. If it fails the old one goes on.
func (c *Consumer) goBack(ctx context.Context, target uint64) (fresh *intake.Durable, err error) {
	old, _ := c.own()
	if err := old.Quiesce(ctx); err != nil {
		old.Resume()
		return nil, c.stillRunning(err)
	}
	info, err := c.waitForOthers(ctx, old)
	if err == nil {
		err = c.reset(ctx, min(target, info.AckFloor.Stream+1))
	}
	if err == nil {
		fresh, err = c.replaceIntake(ctx, old)
	}
	if err != nil {
		old.Resume()
	}
	return fresh, err
}

func (c *Consumer) stillRunning(err error) error {
	t, _ := c.current()
	e := &RewindError{Err: err}
	e.Longest, _ = t.Longest()
	if running, ok := errors.AsType[*dispatch.RunningError](err); ok {
		e.Running, e.Err = running.Running, running.Err
	}
	return e
}

// pollInterval is how often Rewind asks whether other processes have finished.
const pollInterval = 20 * time.Millisecond

// waitForOthers waits until the only unfinished messages are those that in holds and has not
// started.
func (c *Consumer) waitForOthers(ctx context.Context, in *intake.Durable) (*jetstream.ConsumerInfo, error) {
	for others := 0; ; {
		info, err := c.info(ctx)
		if err == nil {
			if others = info.NumAckPending - in.Held(); others <= 0 {
				return info, nil
			}
			err = sleep(ctx, pollInterval)
		}
		switch {
		case err == nil:
		case ctx.Err() != nil && others > 0:
			return nil, &RewindError{Messages: others, Err: context.Cause(ctx)}
		default:
			return nil, err
		}
	}
}

// sleep waits for d, or returns why ctx has ended.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reset sends the durable back. It does not stop halfway when the consumer ends: whether it
// was done must be known.
func (c *Consumer) reset(ctx context.Context, sequence uint64) error {
	ctx, cancel := c.cfg.Core.WithTimeout(context.WithoutCancel(ctx))
	defer cancel()
	_, err := c.cfg.Core.JetStream.ResetConsumerToSequence(ctx, c.cfg.Stream.Name, c.cfg.Durable, sequence)
	if errors.Is(err, jetstream.ErrConsumerInvalidReset) {
		return &RewindError{Sequence: sequence, Reason: "the durable was created to start later"}
	}
	return c.rewindFailed(err)
}

// replaceIntake takes messages by a new intake, which is to be started: what old holds will be
// sent again.
func (c *Consumer) replaceIntake(ctx context.Context, old *intake.Durable) (*intake.Durable, error) {
	fresh, err := intake.OpenDurable(c.cfg.Core.Link, c.intake)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	ended := c.ended
	if !ended {
		c.taker = fresh
		c.past.begun += old.Begun()
		c.past.ended += old.Ended()
	}
	c.mu.Unlock()
	if ended {
		_ = fresh.Drain(ctx)
		return nil, ErrEnded
	}
	_ = old.Forget(ctx) // nothing runs in it
	return fresh, nil
}
