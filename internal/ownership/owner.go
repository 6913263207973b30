package ownership

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// Lead is what a process has while it is the owner, for its intake.
type Lead struct {
	*Fence
	epoch  uint64
	crew   *crew
	intake Intake
	began  chan struct{} // closed when the intake has
}

// newLead opens an intake for an epoch that this process owns.
func (m *Member) newLead(epoch uint64, before Record, sure time.Time) (*Lead, error) {
	l := &Lead{epoch: epoch, crew: newCrew(m, epoch, sure), began: make(chan struct{})}
	if err := l.crew.open(); err != nil {
		l.crew.close()
		return nil, err
	}
	confirm := func(ctx context.Context) error { return l.intake.Confirm(ctx) }
	l.Fence = NewFence(m.store, epoch, before, min(m.cfg.Wait, m.cfg.TTL), confirm, m.nudge)
	in, err := m.cfg.Open(l)
	if err != nil {
		l.end()
		return nil, err
	}
	l.intake = in
	return l, nil
}

// Run has a message handled, here or by another member, and waits for that. The
// outcome is Returned where nobody has begun it, or whoever did was cut off.
func (l *Lead) Run(d wire.Delivery) settle.Outcome { return l.crew.run(d) }

// Halt has what waits for a free hand returned, and what begins to wait later.
func (l *Lead) Halt() { l.crew.halt(false) }

// abandon ends it without settling anything more.
func (l *Lead) abandon() {
	l.Lose()
	l.crew.halt(true)
	l.intake.Abandon()
	l.end()
}

func (l *Lead) end() {
	l.crew.halt(true)
	l.crew.close()
	l.Close()
}
