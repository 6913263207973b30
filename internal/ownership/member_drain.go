package ownership

import (
	"context"
	"errors"
	"time"
)

// ErrEnded says why an outcome does not count that came after Drain had stopped waiting.
var ErrEnded = errors.New("the consumer had stopped before the handler returned; the message is redelivered")

// Drain ends this process's part. An owner takes no more messages, waits for those it has
// assigned, settles them and releases the lease. Another member waits for its handlers. If ctx
// ends while handlers run, Drain leaves at once, and the others notice after a TTL. Else the
// others take over at once, at whatever moment of its start m is told to leave. It may be
// called once.
func (m *Member) Drain(ctx context.Context) error {
	m.mu.Lock()
	m.draining = true
	owner, abandoned := m.owner, m.abandoned
	m.mu.Unlock()
	err := drainOwner(ctx, owner)
	m.workers.refuseAll()
	m.wake.signal() // the next heartbeat offers no workers
	for _, in := range abandoned {
		err = errors.Join(err, in.Wait(ctx))
	}
	err = errors.Join(err, m.workers.wait(ctx))
	m.stop()
	leaving, cancel := m.leavingContext(ctx)
	defer cancel()
	defer m.giveUp()
	context.AfterFunc(leaving, m.giveUp)
	if m.started.Load() {
		<-m.ended
	}
	m.leave(leaving, err == nil || m.isIdle())
	m.workers.queue.Stop()
	unsubscribe(m.subs)
	return err
}

// leavingGrace is how long a member that must stop at once waits for the replies to its
// last requests.
const leavingGrace = 250 * time.Millisecond

// leavingContext bounds the last requests of a member: by the timeout of a request, and
// by leavingGrace after ctx has ended.
func (m *Member) leavingContext(ctx context.Context) (context.Context, context.CancelFunc) {
	leaving, cancel := m.withRequestTimeout(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		grace := time.AfterFunc(leavingGrace, cancel)
		context.AfterFunc(leaving, func() { grace.Stop() })
	})
	return leaving, cancel
}

// drainOwner drains the intake of an owner that is not nil. A lost lease is no error
// here: it was reported, and the next owner does what is left.
func drainOwner(ctx context.Context, owner *Owner) error {
	if owner == nil {
		return nil
	}
	<-owner.started
	if err := owner.intake.Drain(ctx); !errors.Is(err, ErrLost) {
		return err
	}
	return nil
}

// leave releases the lease, or tells the owner that this member has left. If it is not
// idle, because Drain stopped waiting for handlers, it does neither: the others notice after
// a TTL, as after a crash. Drain calls it after run has ended.
func (m *Member) leave(ctx context.Context, idle bool) {
	owner := m.currentOwner()
	if owner != nil {
		owner.close()
	}
	switch {
	case !idle:
	case owner != nil:
		m.releaseLease(ctx, owner.epoch)
	case m.known.uncertain:
		if l, epoch, err := m.store.readLease(ctx); err == nil && l.Member == m.cfg.ID && !l.Released {
			m.releaseLease(ctx, epoch)
		}
	case m.known.held() && m.known.Member == m.cfg.ID: // acquired, but it has not become the owner
		m.releaseLease(ctx, m.known.epoch)
	case m.known.held():
		_, _ = m.askOwner(ctx, m.known.epoch, request{Heartbeat: &heartbeat{Member: m.cfg.ID, Left: true}})
	}
}

// isIdle reports whether nothing runs here, and nothing elsewhere that this process has
// assigned.
func (m *Member) isIdle() bool {
	owner := m.currentOwner()
	return m.InFlight() == 0 && m.workers.queue.InFlight() == 0 && (owner == nil || owner.dispatcher.busy() == 0)
}
