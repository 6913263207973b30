package intake

import (
	"context"

	"github.com/omnibus-go/bus/internal/dispatch"
)

// Quiesce asks for no messages and begins no handler call until Resume, and waits for the
// handlers that run. What they return is settled. The messages that are here stay, with
// in-progress signals. When ctx ends first it returns a *dispatch.RunningError, and the Durable stays
// quiesced. It may be called before Start, and again. Drain ends it.
func (d *Durable) Quiesce(ctx context.Context) error {
	d.setQuiesced(true)
	d.queue.Quiesce()
	err := d.queue.Wait(ctx)
	return dispatch.StillRunning(d.InFlight(), err)
}

// Resume ends Quiesce and Detach. Without one it does nothing, nor after Drain.
func (d *Durable) Resume() {
	d.attach()
	d.setQuiesced(false)
	d.queue.Resume()
	d.wakeMaintainer() // followers can be returned
	d.pull()
}

func (d *Durable) setQuiesced(quiesced bool) {
	d.mu.Lock()
	d.quiesced = quiesced
	d.mu.Unlock()
}

// Quiesce begins no handler call until Resume, and waits for the handlers that run.
// Messages go on to arrive and wait, within the pending limits. When ctx ends first it
// returns a *dispatch.RunningError, and the subscription stays quiesced. It may be called again. Drain
// ends it and handles what waits; Close drops that.
func (s *Core) Quiesce(ctx context.Context) error {
	s.queue.Quiesce()
	err := s.queue.Wait(ctx)
	return dispatch.StillRunning(s.InFlight(), err)
}

// Resume ends Quiesce. Without one it does nothing, nor after Drain or Close.
func (s *Core) Resume() { s.queue.Resume() }

// Held is the number of messages of the stream itself that are here.
func (d *Durable) Held() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pullers[0].held
}

// Forget ends a Durable that is quiesced, after the server was told to send the messages of
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
