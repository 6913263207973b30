// Package registry knows what lives on a bus (subscriptions, responders,
// consumers, the asynchronous publisher), so that whoever stops the bus walks
// one list.
package registry

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
)

// ErrClosed is returned by Add once the registry was closed.
var ErrClosed = errors.New("the registry is closed")

// Member is something that lives on a bus.
type Member interface {
	// Drain takes nothing new, finishes what it has and ends. When ctx ends
	// first it ends at once and says what it left behind.
	Drain(ctx context.Context) error
}

// Registry is the list of live members of one bus. The zero value is open and
// empty. Safe for concurrent use.
type Registry struct {
	mu      sync.Mutex
	closed  bool
	members map[Member]int // the stage in which each one ends
}

// Add enters m, to be drained in the given stage. After Close it fails.
func (r *Registry) Add(stage int, m Member) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	if r.members == nil {
		r.members = make(map[Member]int)
	}
	r.members[m] = stage
	return nil
}

// Remove takes m off the list; it may be absent.
func (r *Registry) Remove(m Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.members, m)
}

// Members returns the live members in no particular order.
func (r *Registry) Members() []Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.members))
}

// Close refuses new members and drains all there are, stage after stage from the
// lowest, those of one stage at the same time. It returns their errors joined.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	stages := make(map[int][]Member)
	for m, stage := range r.members {
		stages[stage] = append(stages[stage], m)
	}
	r.mu.Unlock()
	var errs []error
	for _, stage := range slices.Sorted(maps.Keys(stages)) {
		errs = append(errs, drainAll(ctx, stages[stage])...)
	}
	return errors.Join(errs...)
}

func drainAll(ctx context.Context, members []Member) []error {
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = m.Drain(ctx) })
	}
	wg.Wait()
	return errs
}
