package intake

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// Memory is what outlives this process of the messages that it did not finish. It is
// called by workers, several at once, and may ask the server. What it is to set lies in a
// message's Stored, which is shared.
type Memory interface {
	// Recall sets what is known of a message that has not run here yet: the attempts
	// that failed elsewhere, and how it must run, or why it will not.
	Recall(d wire.Delivery)

	// Admit is asked about a message with a key before it runs. wait means that
	// earlier ones of its key come back first, so it is asked again later; barred is why
	// it will not be handled.
	Admit(d wire.Delivery) (wait bool, barred error)

	// Begin marks that the handler of a message on trial is called, and End that it
	// has returned. fatal is why it will not be called; after any other err it is tried
	// again later.
	Begin(d wire.Delivery) (fatal, err error)
	End(d wire.Delivery)

	// GiveBack notes what this process gives back.
	GiveBack(ctx context.Context, ds []wire.Delivery)
}

// lookAgain is when a message that must wait for others is looked at again.
const lookAgain = 100 * time.Millisecond

// voids counts runs of the queue in which no handler was called.
type voids struct{ begun, ended atomic.Int64 }

func (v *voids) add() {
	v.begun.Add(1)
	v.ended.Add(1)
}

// attempt calls the handler of del, unless it must not be called, now or ever. Not
// now, called is false; then del has been seen to.
func (d *Durable) attempt(del wire.Delivery) (outcome settle.Outcome, called bool) {
	mem := d.cfg.Memory
	if mem == nil {
		return d.cfg.Run(del), true
	}
	if !del.Stored.Recalled {
		mem.Recall(del)
		del.Stored.Recalled = true
	}
	if dead := del.Stored.Dead; dead != nil {
		return settle.Outcome{Err: dead, Permanent: true}, true
	}
	if hasKey(&del) && !del.Stored.Admitted {
		wait, dead := mem.Admit(del)
		if wait {
			d.again(del, lookAgain)
			return outcome, false
		}
		if dead != nil {
			return neverTried(&del, dead), true
		}
		del.Stored.Admitted = true
	}
	if !d.solo.Enter(del, del.Stored.Trial == wire.Alone) {
		return outcome, false
	}
	defer d.leaveSolo(del)
	if del.Stored.Trial == wire.Untried {
		return d.call(del), true
	}
	return d.try(del)
}

// try calls the handler of del, which may end the process.
func (d *Durable) try(del wire.Delivery) (outcome settle.Outcome, called bool) {
	dead, err := d.cfg.Memory.Begin(del)
	switch {
	case dead != nil:
		return neverTried(&del, dead), true
	case err != nil:
		d.tell(err)
		d.again(del, buryAgain)
		return outcome, false
	}
	defer func() { // also where the handler ends the goroutine
		d.cfg.Memory.End(del)
		del.Stored.Trial = wire.Untried
	}()
	return d.call(del), true
}

// call calls the handler of del, with about the number of that call.
func (d *Durable) call(del wire.Delivery) settle.Outcome {
	del.Number = max(del.Number-d.voids.begun.Load(), 1)
	return d.cfg.Run(del)
}

func (d *Durable) leaveSolo(del wire.Delivery) { d.pushAll(d.solo.Leave(del)) }

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
