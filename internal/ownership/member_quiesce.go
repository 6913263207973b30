package ownership

import (
	"context"

	"github.com/omnibus-go/bus/internal/dispatch"
)

// Quiesce has no message begin until Resume, and waits for those that run. An owner assigns
// nothing, to no process, and waits for what it has assigned. Another member offers no
// workers, returns what it has not begun to the owner, and waits for its handlers. Leases
// and heartbeats go on. When ctx ends first it returns a *dispatch.RunningError, and the member stays
// quiesced. It may be called again. Drain ends it.
func (m *Member) Quiesce(ctx context.Context) error {
	owner, abandoned := m.setQuiesced(true)
	err := m.awaitIdle(ctx, owner, abandoned)
	running := max(m.workers.queue.InFlight(), m.InFlight())
	if owner != nil {
		running = max(running, owner.dispatcher.busy())
	}
	return dispatch.StillRunning(running, err)
}

// Resume ends Quiesce. Without one it does nothing.
func (m *Member) Resume() { m.setQuiesced(false) }

// setQuiesced passes the change on to the workers and to the owner, if there is one. It
// returns the owner, and the intakes of earlier times as the owner.
func (m *Member) setQuiesced(quiesced bool) (*Owner, []Intake) {
	m.transition.Lock()
	defer m.transition.Unlock()
	m.mu.Lock()
	m.quiesced = quiesced
	owner, abandoned := m.owner, m.abandoned
	m.mu.Unlock()
	m.workers.setQuiesced(quiesced)
	switch {
	case owner == nil:
	case quiesced:
		owner.quiesce()
	default:
		owner.resume()
	}
	m.wake.signal() // the next heartbeat offers no workers, or all
	return owner, abandoned
}

// awaitIdle waits until nothing runs here, and nothing that owner, if there is one, has
// assigned. It returns the cause of ctx when that ends first.
func (m *Member) awaitIdle(ctx context.Context, owner *Owner, abandoned []Intake) error {
	if owner != nil {
		if err := owner.dispatcher.awaitIdle(ctx, owner.intake.RunsCaller(ctx)); err != nil {
			return err
		}
	}
	for _, in := range abandoned {
		if err := in.Wait(ctx); err != nil {
			return err
		}
	}
	return m.workers.wait(ctx)
}

// quiesce has the owner take in and assign nothing. It does not wait: what its intake runs
// may wait for a worker.
func (o *Owner) quiesce() {
	o.dispatcher.setQuiesced(true)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = o.intake.Quiesce(ended)
}

// resume ends quiesce.
func (o *Owner) resume() {
	o.intake.Resume()
	o.dispatcher.setQuiesced(false)
}

// setQuiesced says whether the dispatcher assigns nothing.
func (d *dispatcher) setQuiesced(quiesced bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiesced = quiesced
	d.dispatchLocked()
}

// busy is how many messages this dispatcher has assigned, in all processes.
func (d *dispatcher) busy() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.busyLocked()
}

func (d *dispatcher) busyLocked() (n int) {
	for _, m := range d.members {
		n += m.busy
	}
	return n
}

// awaitIdle waits until nothing that this dispatcher assigned runs, except the caller if
// that is one of the handlers, or until ctx ends.
func (d *dispatcher) awaitIdle(ctx context.Context, exceptCaller bool) error {
	own := 0
	if exceptCaller {
		own = 1
	}
	for {
		d.mu.Lock()
		busy := d.busyLocked()
		if d.idle == nil {
			d.idle = make(chan struct{})
		}
		idle := d.idle
		d.mu.Unlock()
		if busy <= own {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
