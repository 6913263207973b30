package intake

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// Recovery is what outlives this process of the messages that it did not finish. It is
// called by workers, several at once, and may ask the server. What it is to set lies in a
// message's Stored, which is shared.
type Recovery interface {
	// Restore sets what is known of a message that has not run here yet: the attempts
	// that failed elsewhere, and how it must run, or why it will not.
	Restore(d wire.Delivery)

	// MayRun is asked about a message with a key before it runs. wait means that
	// earlier ones of its key come back first, so it is asked again later; barred is why
	// it will not be handled.
	MayRun(d wire.Delivery) (wait bool, barred error)

	// MarkStarted records that the handler of a message on trial is called, and MarkEnded that it
	// has returned. fatal is why it will not be called; after any other err it is tried
	// again later.
	MarkStarted(d wire.Delivery) (fatal, err error)
	MarkEnded(d wire.Delivery)

	// RecordHandback notes what this process gives back.
	RecordHandback(ctx context.Context, ds []wire.Delivery)
}

// recheckAfter is when a message that must wait for others is looked at again.
const recheckAfter = 100 * time.Millisecond

// skipped counts runs of the queue in which no handler was called.
type skipped struct{ begun, ended atomic.Int64 }

func (v *skipped) add() {
	v.begun.Add(1)
	v.ended.Add(1)
}

// attempt calls the handler of del, unless it must not be called, now or ever. Not
// now, called is false; then del has been seen to.
func (d *Durable) attempt(del wire.Delivery) (outcome settle.Outcome, called bool) {
	rec := d.cfg.Recovery
	if rec == nil {
		return d.cfg.Run(del), true
	}
	if !del.Stored.Restored {
		rec.Restore(del)
		del.Stored.Restored = true
	}
	if dead := del.Stored.Dead; dead != nil {
		return settle.Outcome{Err: dead, Permanent: true}, true
	}
	if hasKey(&del) && !del.Stored.MayRun {
		wait, dead := rec.MayRun(del)
		if wait {
			d.again(del, recheckAfter)
			return outcome, false
		}
		if dead != nil {
			return neverTried(&del, dead), true
		}
		del.Stored.MayRun = true
	}
	if !d.isolation.Enter(del, del.Stored.Trial == wire.Alone) {
		return outcome, false
	}
	defer d.leaveIsolation(del)
	if del.Stored.Trial == wire.Untried {
		return d.call(del), true
	}
	return d.try(del)
}

// try calls the handler of del, which may end the process.
func (d *Durable) try(del wire.Delivery) (outcome settle.Outcome, called bool) {
	dead, err := d.cfg.Recovery.MarkStarted(del)
	switch {
	case dead != nil:
		return neverTried(&del, dead), true
	case err != nil:
		d.report(err)
		d.again(del, deadLetterRetry)
		return outcome, false
	}
	defer func() { // also where the handler ends the goroutine
		d.cfg.Recovery.MarkEnded(del)
		del.Stored.Trial = wire.Untried
	}()
	return d.call(del), true
}

// call calls the handler of del, with about the number of that call.
func (d *Durable) call(del wire.Delivery) settle.Outcome {
	del.Number = max(del.Number-d.skipped.begun.Load(), 1)
	return d.cfg.Run(del)
}

func (d *Durable) leaveIsolation(del wire.Delivery) { d.pushAll(d.isolation.Leave(del)) }

// pushAll queues again what was in the queue before: it has waited for a batch then.
func (d *Durable) pushAll(ds []wire.Delivery) {
	if len(ds) == 0 {
		return
	}
	for _, del := range ds {
		d.push(del)
	}
	d.queue.Hurry()
}

// neverTried is the outcome of a message whose handler will not be called (again).
func neverTried(del *wire.Delivery, dead error) settle.Outcome {
	del.Stored.Attempt--
	return settle.Outcome{Err: dead, Permanent: true}
}
