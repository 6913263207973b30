package lifecycle

import (
	"context"
	"fmt"
	"sync"
)

// Exclusive quiesces something and holds a mutex from Quiesce until Resume: work that has
// the mutex ends first, and later work waits. It is for a consumer, whose Rewind must not
// lie across. Safe for concurrent use.
type Exclusive struct {
	mutex   *Mutex
	current func() Quiescer
	taking  Mutex // of the call of hold that waits for mutex

	mu       sync.Mutex
	unlock   func() // nil unless it has mutex
	released bool   // it does not take mutex any more
}

// NewExclusive returns an Exclusive that quiesces what current returns. That may change
// only while mutex is held.
func NewExclusive(mutex *Mutex, current func() Quiescer) *Exclusive {
	return &Exclusive{mutex: mutex, current: current}
}

// Quiesce implements Quiescer. If other work has the mutex until ctx ends, nothing is
// quiesced.
func (e *Exclusive) Quiesce(ctx context.Context) error {
	if err := e.hold(ctx); err != nil {
		return fmt.Errorf("other work is under way: %w", err)
	}
	return e.current().Quiesce(ctx)
}

// hold takes the mutex, unless e has it or was released.
func (e *Exclusive) hold(ctx context.Context) error {
	done, err := e.taking.Lock(ctx)
	if err != nil {
		return err
	}
	defer done()
	if e.needsNone() {
		return nil
	}
	unlock, err := e.mutex.Lock(ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.released {
		unlock()
		return nil
	}
	e.unlock = unlock
	return nil
}

func (e *Exclusive) needsNone() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unlock != nil || e.released
}

// Resume implements Quiescer.
func (e *Exclusive) Resume() {
	e.current().Resume()
	e.free(false)
}

// Release gives the mutex up for good. Whoever drains what is quiesced calls it before it
// takes the mutex.
func (e *Exclusive) Release() { e.free(true) }

func (e *Exclusive) free(forGood bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.released = e.released || forGood
	if e.unlock != nil {
		e.unlock()
		e.unlock = nil
	}
}
