package intake

import (
	"context"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

// Rest asks for no messages and begins none until Wake, and waits for the handlers
// that run. What is here stays, and is maintained alive. When ctx ends first it goes on and
// returns a *LeftBehind.
func (d *Durable) Rest(ctx context.Context) error {
	d.setResting(true)
	d.queue.Rest()
	err := d.queue.Wait(ctx)
	if err == nil {
		return nil
	}
	pending, _ := d.Pending()
	left := &LeftBehind{Pending: pending, Running: d.InFlight(), Err: err}
	d.Wake()
	return left
}

// Wake ends Rest.
func (d *Durable) Wake() {
	d.setResting(false)
	d.queue.Wake()
	d.pull()
}

func (d *Durable) setResting(resting bool) {
	d.mu.Lock()
	d.resting = resting
	d.mu.Unlock()
}

// Held is the number of messages of the stream itself that are here.
func (d *Durable) Held() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pullers[0].held
}

// Forget ends a Durable that rests, after the server was reported to send the messages of
// the stream itself once more: it says nothing more about those. The others are given
// back. It is called instead of Drain.
func (d *Durable) Forget(ctx context.Context) error {
	d.mu.Lock()
	for p, h := range d.held {
		if p.source == 0 {
			delete(d.held, p)
			d.pullers[0].letGo(h)
		}
	}
	d.pullers[0].lastEnd = "" // the server has seen it: it had none of ours left to wait for
	d.mu.Unlock()
	return d.Drain(ctx)
}

// isOurs reports whether del is this process's to settle.
func (d *Durable) isOurs(del *wire.Delivery) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held[positionOf(del)].hold == del.Stored.Hold
}

// Longest is the handler call that has been going on for longest, if one does.
func (d *Durable) Longest() (dispatch.Run, bool) { return d.queue.Longest() }
