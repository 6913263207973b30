package ownership

import (
	"context"
	"errors"
)

// Drain ends this process's part: an owner takes in no more, waits for what it gave
// out, settles, and frees the claim; a member waits for its handlers. When ctx ends
// first it leaves at once, and others find out after a while. It may be called once.
func (m *Member) Drain(ctx context.Context) error {
	m.mu.Lock()
	m.leaving = true
	lead, past := m.lead, m.past
	m.mu.Unlock()
	var err error
	if lead != nil {
		<-lead.began
		err = lead.intake.Drain(ctx)
	}
	if errors.Is(err, ErrLost) { // the next owner does what is left, and that was told
		err = nil
	}
	m.hands.leave()
	m.nudge() // so that the owner gives no more
	for _, in := range past {
		err = errors.Join(err, in.Wait(ctx))
	}
	err = errors.Join(err, m.hands.rest(ctx))
	m.stop()
	if m.started.Load() {
		<-m.ended
	}
	m.leave(ctx)
	m.hands.queue.Stop()
	m.unsubscribe()
	return err
}

// leave tells the others that this process is gone.
func (m *Member) leave(ctx context.Context) {
	ctx, cancel := m.bound(ctx)
	defer cancel()
	if lead := m.owning(); lead != nil {
		m.free(ctx, lead)
		return
	}
	if m.seen > 0 && !m.holder.Free {
		_, _ = m.ask(ctx, m.seen, request{Beat: &beat{Member: m.cfg.ID, Gone: true}}) // likewise
	}
}

// ErrEnded is why an outcome does not count that came after Drain had stopped waiting.
var ErrEnded = errors.New("the consumer had ended here before the handler did; the message comes again")

// Refusal is why an outcome does not count now.
func (m *Member) Refusal() error {
	if m.ctx.Err() != nil {
		return ErrEnded
	}
	return ErrLost
}

// Owns reports whether this process is the owner.
func (m *Member) Owns() bool { return m.owning() != nil }

// Begun is the number of handler calls here so far.
func (m *Member) Begun() int64 { return m.hands.begun.Load() }

// Ended is Begun for those that have returned.
func (m *Member) Ended() int64 { return m.hands.ended.Load() }

// InFlight is the number of handlers that run here.
func (m *Member) InFlight() int {
	ended := m.hands.ended.Load() // first: one that begins between the two must not count as ended
	return int(m.hands.begun.Load() - ended)
}

// RunsCaller reports whether the caller that ctx notes is one of the handlers.
func (m *Member) RunsCaller(ctx context.Context) bool {
	m.mu.Lock()
	ins := m.past
	if m.lead != nil {
		ins = append([]Intake{m.lead.intake}, ins...)
	}
	m.mu.Unlock()
	for _, in := range ins {
		if in.RunsCaller(ctx) {
			return true
		}
	}
	return m.hands.queue.RunsCaller(ctx)
}
