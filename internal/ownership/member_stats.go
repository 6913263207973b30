package ownership

import (
	"cmp"
	"context"
)

// Owns reports whether this process is the owner.
func (m *Member) Owns() bool { return m.currentOwner() != nil }

// Stalled returns why there is no owner now, as far as this process knows: the lease cannot be read, or
// this process has it and cannot take messages. It returns nil while all is well.
func (m *Member) Stalled() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return cmp.Or(m.leaseErr, m.openErr)
}

// Begun is the number of handler calls that began in this process.
func (m *Member) Begun() int64 { return m.workers.begun.Load() }

// Ended is the number of handler calls that returned in this process.
func (m *Member) Ended() int64 { return m.workers.ended.Load() }

// InFlight is the number of handlers that run in this process.
func (m *Member) InFlight() int {
	ended := m.workers.ended.Load() // first: a call that begins between the two must not count as ended
	return int(m.workers.begun.Load() - ended)
}

// RunsCaller reports whether the caller that ctx names is one of the handlers.
func (m *Member) RunsCaller(ctx context.Context) bool {
	m.mu.Lock()
	intakes := m.abandoned
	if m.owner != nil {
		intakes = append([]Intake{m.owner.intake}, intakes...)
	}
	m.mu.Unlock()
	for _, in := range intakes {
		if in.RunsCaller(ctx) {
			return true
		}
	}
	return m.workers.queue.RunsCaller(ctx)
}
