package intake

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Drain asks for no more, gives back what was not begun, waits for the handlers
// and until the server has seen their acknowledgements, and closes. When ctx ends
// first it closes at once; what then still runs comes again elsewhere. It may be
// called once.
func (d *Durable) Drain(ctx context.Context) error {
	d.mu.Lock()
	abandoned := d.ends
	d.ends, d.draining = true, true
	d.mu.Unlock()
	if abandoned {
		return d.Wait(ctx)
	}
	err := d.drain(ctx)
	d.end()
	d.awaitReported(ctx)
	close(d.done)
	return err
}

// end ends what is ours.
func (d *Durable) end() {
	d.closePullers()
	close(d.stop)
	if d.started.Load() {
		<-d.maintained
	}
}

func (d *Durable) drain(ctx context.Context) error {
	// Where the server cannot be reported, the rest is done all the same.
	var err error
	for _, s := range d.pullers {
		_ = d.link.EndInterest(ctx, s.sub, d.cfg.Timeout)
		err = errors.Join(err, emptied(ctx, s.sub, 0, nil))
	}
	d.giveBack(ctx, d.notBegun()) // also then: what arrives later finds the queue stopped
	d.halt()
	if err == nil {
		err = d.queue.Wait(ctx)
	}
	d.giveBack(ctx, d.notDone())
	pending, _ := d.Pending()
	if running := d.InFlight(); err != nil && pending+running > 0 {
		return &LeftBehind{Pending: pending, Running: running, Err: err}
	}
	if err := d.flush(ctx); err != nil {
		return err
	}
	return d.confirm(ctx)
}

// graceForRecords is how long messages may be parked, and then how long what is given back may
// be noted, when there is no time left: without that their attempts would be forgotten.
// Both together are less than the 100 ms in which a bus must end.
const graceForRecords = 40 * time.Millisecond

// outliving is ctx that ends a little later.
func outliving(ctx context.Context) (later context.Context, end func()) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(graceForRecords, cancel) })
	return later, func() { stop(); cancel() }
}

// giveBack returns messages for others, or for later, with a note of that. What failed
// before is parked instead where that is possible, so that its attempts are not
// forgotten; but not what has a key, whose order that would break.
func (d *Durable) giveBack(ctx context.Context, all []due) {
	back := d.deferAll(ctx, all)
	if d.cfg.Recovery != nil && len(back) > 0 {
		noting, end := outliving(ctx)
		d.cfg.Recovery.RecordHandback(noting, back)
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

// deferAll parks what giveBack says, and returns the rest.
func (d *Durable) deferAll(ctx context.Context, all []due) (back []wire.Delivery) {
	ctx, end := outliving(ctx)
	defer end()
	for i := range all {
		del := all[i].d
		if !d.isOurs(&del) {
			continue
		}
		if hasKey(&del) || del.Stored.Attempt == 1 || del.Stored.Dead != nil || !d.deferRetry(ctx, del, all[i].at) {
			back = append(back, del)
		}
	}
	return back
}

// notBegun stops what lets messages begin and returns those that have not.
func (d *Durable) notBegun() []due {
	left := d.removeWaiting()
	stopped := d.queue.Stop()
	if d.keyed() {
		stopped = append(stopped, d.lanes.Stop()...)
	}
	return append(left, dueNow(append(stopped, d.isolation.Stop()...))...)
}

// notDone returns what was tried in vain since the drain began.
func (d *Durable) notDone() []due {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := d.left
	d.left, d.leftGone = nil, true
	return dueNow(left)
}

func dueNow(ds []wire.Delivery) (all []due) {
	for _, del := range ds {
		all = append(all, due{time.Now(), del})
	}
	return all
}

func (d *Durable) removeWaiting() []due {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.waiting.all()
	for i := range all {
		d.pullers[all[i].d.Stored.Source].waiting--
	}
	return all
}

// confirm waits until the server has processed what was settled. Of each consumer it
// takes that in order, so repeating the last one and asking for an answer tells.
func (d *Durable) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	for _, s := range d.pullers {
		if err := s.repeatLast(ctx); err != nil {
			return errors.Join(errors.New("the last acknowledgements are not confirmed, their messages may come again"), err)
		}
	}
	return nil
}

// emptied waits until nats.go's list of a subscription has no more than own
// messages. nats.go tells nobody when, hence the polling; it happens only while a
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
