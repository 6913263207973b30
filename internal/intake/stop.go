package intake

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// Drain asks for no more, gives back what was not begun, waits for the handlers
// and until the server has seen their acknowledgements, and closes. When ctx ends
// first it closes at once; what then still runs comes again elsewhere. It may be
// called once.
func (d *Durable) Drain(ctx context.Context) error {
	d.mu.Lock()
	d.draining = true
	d.mu.Unlock()
	err := d.drain(ctx)
	for _, unhook := range d.unhook {
		unhook()
	}
	_ = d.sub.Unsubscribe()
	close(d.stop)
	if d.started.Load() {
		<-d.kept
	}
	close(d.done)
	return err
}

func (d *Durable) drain(ctx context.Context) error {
	// Where the server cannot be told, the rest is done all the same.
	_ = d.link.EndInterest(ctx, d.sub, d.cfg.Timeout)
	err := emptied(ctx, d.sub, 0)
	d.giveBack() // also then: what arrives later finds the queue stopped
	if err != nil {
		return err
	}
	if err := d.queue.Wait(ctx); err != nil {
		return err
	}
	return d.confirm(ctx)
}

// giveBack returns what was not begun, for others or for later.
func (d *Durable) giveBack() {
	left := d.queue.Stop()
	d.mu.Lock()
	left = append(left, d.waiting.all()...)
	d.mu.Unlock()
	for i := range left {
		_ = d.release(left[i].Stored.Sequence, nakBody)
	}
}

// confirm waits until the server has processed the acknowledgements. It takes
// them in order, so repeating the last one and asking for an answer tells.
func (d *Durable) confirm(ctx context.Context) error {
	d.mu.Lock()
	last := d.lastAck
	d.mu.Unlock()
	if last == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	if _, err := d.link.Request(ctx, &wire.Out{Subject: last, Data: ackBody}); err != nil {
		return errors.Join(errors.New("the last acknowledgements are not confirmed, their messages may come again"), err)
	}
	return nil
}

// emptied waits until nats.go's list of a subscription has no more than own
// messages. nats.go tells nobody when, hence the polling; it happens only while a
// subscription closes. A message counts until its callback has returned.
func emptied(ctx context.Context, sub *nats.Subscription, own int) error {
	pause := 50 * time.Microsecond
	for {
		msgs, _, err := sub.Pending()
		if err != nil || msgs <= own {
			return nil
		}
		if own > 0 {
			return ErrLeftBehind // nothing can run before the caller returns
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, 5*time.Millisecond)
		case <-ctx.Done():
			return errors.Join(ErrLeftBehind, context.Cause(ctx))
		}
	}
}
