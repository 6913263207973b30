package intake

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/deadline"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// LeftBehind is the error of a drain that ended before every message that had
// arrived was handled.
type LeftBehind struct {
	Pending int   // messages that waited for a handler
	Running int   // handlers that ran
	Err     error // why it did not wait longer
}

// Error says why.
func (e *LeftBehind) Error() string { return e.Err.Error() }

// Unwrap returns why.
func (e *LeftBehind) Unwrap() error { return e.Err }

// Drain asks for no more, returns what was not begun, waits for the handlers
// and until the server has seen their acknowledgements, and closes. When ctx ends
// first it closes at once; what then still runs comes again elsewhere. It may be
// called once.
func (d *Durable) Drain(ctx context.Context) error {
	d.mu.Lock()
	abandoned := d.ends
	d.ends, d.draining = true, true
	d.mu.Unlock()
	d.cancel()
	if abandoned {
		return d.Wait(ctx)
	}
	err := d.drain(ctx)
	d.end()
	d.awaitReported(ctx)
	close(d.done)
	return err
}

// Abandon ends the intake at once: it takes nothing more and sends the server nothing
// about what it has. Handlers that run go on, see Wait.
func (d *Durable) Abandon() {
	d.mu.Lock()
	ends := !d.ends
	d.ends, d.draining, d.abandoned = true, true, true
	d.mu.Unlock()
	d.cancel()
	if !ends { // a drain does it
		return
	}
	d.notBegun()
	d.end()
	close(d.done)
}

// Wait waits until an abandoned intake runs no handler and has reported everything, or
// until ctx ends.
func (d *Durable) Wait(ctx context.Context) error {
	err := d.queue.Wait(ctx)
	d.order.wait(ctx)
	d.awaitReported(ctx)
	return err
}

// end closes the inboxes and ends the maintainer.
func (d *Durable) end() {
	d.closePullers()
	close(d.stop)
	if d.started.Load() {
		<-d.maintained
	}
}

// drain does what Drain does before it closes.
func (d *Durable) drain(ctx context.Context) error {
	// Where the server cannot be reached, the rest is done all the same.
	var err error
	for _, p := range d.pullers {
		_ = d.link.EndInterest(ctx, p.sub, d.cfg.Timeout)
		err = errors.Join(err, emptied(ctx, p.sub, 0, nil))
	}
	d.returnKept()
	d.handBack(ctx, d.notBegun()) // also then: what arrives later finds the queue stopped
	d.authority.halt()
	if err == nil {
		err = d.queue.Wait(ctx)
	}
	d.order.wait(ctx)
	d.handBack(ctx, d.takeUnfinished())
	pending, _ := d.Pending()
	if running := d.InFlight(); err != nil && pending+running > 0 {
		return &LeftBehind{Pending: pending, Running: running, Err: err}
	}
	if err := d.authority.flush(ctx); err != nil {
		return err
	}
	return d.confirmAll(ctx)
}

// confirmAll is Confirm within the timeout of the config.
func (d *Durable) confirmAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	if err := d.Confirm(ctx); err != nil {
		return errors.Join(errors.New("the last acknowledgements are not confirmed; their messages may be redelivered"), err)
	}
	return nil
}

// graceForRecords is how long messages may be deferred, and then how long a handback may
// be recorded, when there is no time left: without that their attempts would be forgotten.
// Both together are less than the 100 ms in which a bus must end.
const graceForRecords = 40 * time.Millisecond

// handBack returns messages for others, or for later, and records that. What failed
// before is deferred instead where that is possible, so that its attempts are not
// forgotten; but not what has a key, whose order that would break.
func (d *Durable) handBack(ctx context.Context, all []due) {
	back := d.deferAll(ctx, all)
	if d.cfg.Recovery != nil && len(back) > 0 && !d.isDeleted() {
		recording, end := deadline.Extend(ctx, graceForRecords)
		d.cfg.Recovery.RecordHandback(recording, back)
		end()
	}
	for i := range back {
		if back[i].Stored.Context != nil { // its settlement belongs to the trace of the handler call
			d.settle(back[i], telemetry.OpNak, nakBody)
		} else {
			_, _ = d.release(&back[i], nakBody)
		}
	}
}

// deferAll defers what handBack says, and returns the rest.
func (d *Durable) deferAll(ctx context.Context, all []due) (back []wire.Delivery) {
	ctx, end := deadline.Extend(ctx, graceForRecords)
	defer end()
	for i := range all {
		del := all[i].d
		if !d.isOurs(&del) {
			continue
		}
		if del.Stored.Attempt == 1 || del.Stored.Dead != nil || !d.order.mayDefer(del.Stored) || !d.deferRetry(ctx, del, all[i].at) {
			back = append(back, del)
		}
	}
	return back
}

// isOurs reports whether del is this process's to settle.
func (d *Durable) isOurs(del *wire.Delivery) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held[positionOf(del)].hold == del.Stored.HoldID
}

// notBegun stops what lets messages begin and returns those that have not.
func (d *Durable) notBegun() []due {
	left := d.removeWaiting()
	stopped := d.queue.Stop()
	stopped = append(stopped, d.order.stop()...)
	return append(left, dueNow(append(stopped, d.isolation.Stop()...))...)
}

// takeUnfinished returns the messages that failed since the drain began.
func (d *Durable) takeUnfinished() []due {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := d.unfinished
	d.unfinished, d.unfinishedGone = nil, true
	return dueNow(left)
}

// emptied waits until nats.go's list of a subscription has no more than own
// messages. nats.go has no signal for that, hence the polling; it happens only while a
// subscription closes. A message counts until its callback has returned. A
// subscription that has ended has none: what waited is lost. One that is lost will not
// be emptied.
func emptied(ctx context.Context, sub *nats.Subscription, own int, lost <-chan struct{}) error {
	pause := 50 * time.Microsecond
	for {
		msgs, _, err := sub.Pending()
		if err != nil || msgs <= own {
			return nil
		}
		if own > 0 {
			return errOnlyCaller
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, 5*time.Millisecond)
		case <-lost:
			return errLostGoroutine
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
