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

	// MarkStarted records that the handler of a message on trial is called, and
	// MarkEnded that it has returned. fatal is why it will not be called; after any other
	// err it is tried again later.
	MarkStarted(d wire.Delivery) (fatal, err error)
	MarkEnded(d wire.Delivery)

	// RecordHandback records the messages that this process returns.
	RecordHandback(ctx context.Context, ds []wire.Delivery)
}

// recheckAfter is when a message that must wait for others is looked at again.
const recheckAfter = 100 * time.Millisecond

// skipped counts runs of the queue in which no handler was called.
type skipped struct{ begun, ended atomic.Int64 }

func (s *skipped) add() {
	s.begun.Add(1)
	s.ended.Add(1)
}

// attempt calls the handler of del, unless it must not be called, now or ever. Not
// now, called is false; then del waits here, or is held back. A worker calls it.
func (d *Durable) attempt(del wire.Delivery) (outcome settle.Outcome, called bool) {
	if d.cfg.Recovery == nil {
		return d.cfg.Run(del), true
	}
	d.restore(del)
	if dead := del.Stored.Dead; dead != nil {
		return settle.Outcome{Err: dead, Permanent: true}, true
	}
	switch wait, barred := d.order.mayRun(del); {
	case wait:
		d.again(del, recheckAfter)
		return outcome, false
	case barred != nil:
		return neverTried(del.Stored, barred), true
	}
	if !d.isolation.Enter(del, del.Stored.Isolation == wire.Alone) {
		return outcome, false
	}
	defer d.leaveIsolation(del)
	if del.Stored.Isolation == wire.NotIsolated {
		return d.call(del), true
	}
	return d.try(del)
}

// restore sets what is known of del, once.
func (d *Durable) restore(del wire.Delivery) {
	if !del.Stored.Restored {
		d.cfg.Recovery.Restore(del)
		del.Stored.Restored = true
	}
}

// try calls the handler of del, which may end the process.
func (d *Durable) try(del wire.Delivery) (outcome settle.Outcome, called bool) {
	dead, err := d.cfg.Recovery.MarkStarted(del)
	switch {
	case dead != nil:
		return neverTried(del.Stored, dead), true
	case err != nil:
		d.report(err)
		d.again(del, deadLetterRetry)
		return outcome, false
	}
	defer func() { // also where the handler ends the goroutine
		d.cfg.Recovery.MarkEnded(del)
		del.Stored.Isolation = wire.NotIsolated
	}()
	return d.call(del), true
}

// call calls the handler of del, with about the number of that call.
func (d *Durable) call(del wire.Delivery) settle.Outcome {
	del.Number = max(del.Number-d.skipped.begun.Load(), 1)
	return d.cfg.Run(del)
}

func (d *Durable) leaveIsolation(del wire.Delivery) { d.pushAll(d.isolation.Leave(del)) }

// neverTried is the outcome of a message whose handler will not be called (again).
func neverTried(s *wire.Stored, dead error) settle.Outcome {
	s.Attempt--
	return settle.Outcome{Err: dead, Permanent: true}
}
