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
//
// States: open ⇄ quiesced → closed, and open → closed.
type Registry struct {
	senders []Quiescer // what is quiesced after the members; set before the first use

	mu       sync.Mutex
	closed   bool
	quiesced bool                      // since Quiesce began, until Resume
	members  map[Member]member         // by themselves
	calls    map[*quiesceCall]struct{} // of Quiesce that are under way
	resuming int                       // calls of Resume that are under way
	changed  chan struct{}             // closed when calls or resuming became fewer; nil while nobody waits
}

// member is what Add was given.
type member struct {
	member   Member
	quiescer Quiescer
	stage    Stage
}

// Add registers m, to be drained in the given stage. q quiesces it; nil is for what also goes
// on while the registry is quiesced. A member that is added meanwhile is quiesced at once.
// After Close it fails.
func (r *Registry) Add(stage Stage, m Member, q Quiescer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	if q == nil {
		q = notQuiesced{}
	}
	if r.members == nil {
		r.members = make(map[Member]member)
	}
	r.members[m] = member{m, q, stage}
	if r.quiesced {
		_ = q.Quiesce(endedContext()) // it is new: what runs in it has just begun
	}
	return nil
}

// notQuiesced is the Quiescer of what goes on.
type notQuiesced struct{}

func (notQuiesced) Quiesce(context.Context) error { return nil }
func (notQuiesced) Resume()                       {}

func endedContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
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

// stagesLocked returns the members by their stage.
func (r *Registry) stagesLocked() map[Stage][]member {
	stages := make(map[Stage][]member)
	for _, m := range r.members {
		stages[m.stage] = append(stages[m.stage], m)
	}
	return stages
}

// Close refuses new members and drains all there are, stage after stage, those of one
// stage at the same time. It returns their errors joined. A quiesced registry resumes before,
// since members that drain may handle what has arrived.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	stages := r.stagesLocked()
	r.mu.Unlock()
	r.Resume()
	var errs []error
	for _, stage := range slices.Sorted(maps.Keys(stages)) {
		errs = append(errs, drainAll(ctx, stages[stage])...)
	}
	return errors.Join(errs...)
}

// drainAll drains the members of one stage at the same time.
func drainAll(ctx context.Context, members []member) []error {
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = m.member.Drain(ctx) })
	}
	wg.Wait()
	return errs
}
