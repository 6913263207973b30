package lifecycle

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
)

// Stage says when a member is drained. Close drains the stages in this order.
type Stage int

// The stages of a bus. Handlers of messages may still send requests to the bus's own
// responders, so responders are drained after them. Discovery answers for as long as
// there are responders.
const (
	StageSubscribers Stage = iota // subscriptions and consumers
	StageResponders
	StageDiscovery
)

// ErrClosed is returned by Add once the registry was closed.
var ErrClosed = errors.New("the registry is closed")

// Member is something that lives on a bus.
type Member interface {
	// Drain takes nothing new, finishes what it has and ends. When ctx ends first, it
	// ends at once and its error says what it left behind.
	Drain(ctx context.Context) error
}

// Registry is the list of live members of one bus. The zero value is open and empty.
// Safe for concurrent use.
type Registry struct {
	mu      sync.Mutex
	closed  bool
	members map[Member]Stage
}

// Add registers m, to be drained in the given stage. After Close it fails.
func (r *Registry) Add(stage Stage, m Member) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	if r.members == nil {
		r.members = make(map[Member]Stage)
	}
	r.members[m] = stage
	return nil
}

// Remove removes m, which may be absent.
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

// Close refuses new members and drains all there are, stage after stage, those of one
// stage at the same time. It returns their errors joined.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	stages := make(map[Stage][]Member)
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

// drainAll drains the members of one stage at the same time.
func drainAll(ctx context.Context, members []Member) []error {
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = m.Drain(ctx) })
	}
	wg.Wait()
	return errs
}
