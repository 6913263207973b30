package ownership

import (
	"context"
	"errors"
)

// ErrEnded says why an outcome does not count that came after Drain had stopped waiting.
var ErrEnded = errors.New("the consumer had stopped before the handler returned; the message is redelivered")

// Drain ends this process's part. An owner takes no more messages, waits for those it has
// assigned, settles them and releases the lease. Another member waits for its handlers. If ctx
// ends first, Drain leaves at once, and the others notice after a TTL. It may be called
// once.
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
	if m.started.Load() {
		<-m.ended
	}
	m.leave(ctx)
	m.workers.queue.Stop()
	unsubscribe(m.subs)
	return err
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

// leave releases the lease, or tells the owner that this member has left. Without it they
// notice after a TTL. Drain calls it after run has ended.
func (m *Member) leave(ctx context.Context) {
	ctx, cancel := m.withRequestTimeout(ctx)
	defer cancel()
	if owner := m.currentOwner(); owner != nil {
		m.releaseLease(ctx, owner)
		return
	}
	if m.known.held() {
		_, _ = m.askOwner(ctx, m.known.epoch, request{Heartbeat: &heartbeat{Member: m.cfg.ID, Left: true}})
	}
}
