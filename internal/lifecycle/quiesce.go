package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/omnibus-go/bus/internal/plural"
)

// Quiescer is something that can stop for a while and go on.
type Quiescer interface {
	// Quiesce takes in nothing new, waits for what runs, and keeps its state until Resume.
	// When ctx ends first its error says what still runs, and it stays quiesced. With an
	// ended ctx it does not wait. It may be called again.
	Quiesce(ctx context.Context) error
	// Resume ends Quiesce. Without one it does nothing.
	Resume()
}

// ErrResumed is returned by Registry.Quiesce when Resume or Close ended it.
var ErrResumed = errors.New("the registry was resumed meanwhile")

// StillRunningError says what still ran when Quiesce could not wait longer. Unwrap returns
// the errors of its members.
type StillRunningError struct {
	Running []StillRunning
}

// StillRunning is a member, or a sender, that still ran.
type StillRunning struct {
	Member any // what was given to Add or to SetSenders
	Err    error
}

func (e *StillRunningError) Error() string {
	return fmt.Sprintf("%s: %v", plural.Of(len(e.Running), "member still runs", "members still run"), errors.Join(e.Unwrap()...))
}

// Unwrap returns the errors of the members.
func (e *StillRunningError) Unwrap() []error {
	errs := make([]error, len(e.Running))
	for i, r := range e.Running {
		errs[i] = r.Err
	}
	return errs
}

// SetSenders says what else Quiesce stops: after all members, in the given order, since
// handlers that run may publish. Close does not drain them; its caller does. It is called
// once, before the registry is used.
func (r *Registry) SetSenders(senders ...Quiescer) { r.senders = senders }

// Quiesce stops all members and senders until Resume: no handler call begins, those that run
// are waited for, and what is published waits. It goes stage by stage, those of one stage at
// the same time.
//
// When ctx ends first it stops the rest without waiting and returns a *StillRunningError.
// Then all is quiesced, except what the error names: of that nothing more begins, but
// something runs still. A handler that publishes now waits for Resume. Quiesce may be called
// again, to wait longer. It returns ErrResumed when Resume ended it, and ErrClosed after
// Close.
func (r *Registry) Quiesce(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	call := &quiesceCall{cancel}
	stages, err := r.begin(call)
	if err != nil {
		return err
	}
	defer r.end(call)
	var running []StillRunning
	for _, stage := range slices.Sorted(maps.Keys(stages)) {
		running = append(running, quiesceAll(ctx, stages[stage])...)
	}
	for _, s := range r.senders {
		if err := s.Quiesce(ctx); err != nil {
			running = append(running, StillRunning{s, err})
		}
	}
	switch {
	case errors.Is(context.Cause(ctx), ErrResumed):
		return ErrResumed
	case len(running) > 0:
		return &StillRunningError{running}
	}
	return nil
}

// QuiesceSenders stops only the senders until Resume, in the given order. It fails with the
// first that still sends when ctx ends, which stays quiesced.
func (r *Registry) QuiesceSenders(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	call := &quiesceCall{cancel}
	if _, err := r.begin(call); err != nil {
		return err
	}
	defer r.end(call)
	for _, s := range r.senders {
		if err := s.Quiesce(ctx); err != nil {
			return err
		}
	}
	return nil
}

// quiesceAll quiesces the members of one stage at the same time, and returns those that
// still run.
func quiesceAll(ctx context.Context, members []member) (running []StillRunning) {
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = m.quiescer.Quiesce(ctx) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			running = append(running, StillRunning{members[i].member, err})
		}
	}
	return running
}

// quiesceCall is a call of Quiesce that is under way.
type quiesceCall struct{ cancel context.CancelCauseFunc }

// begin registers a call of Quiesce, once no Resume is under way. It returns the members.
func (r *Registry) begin(call *quiesceCall) (map[Stage][]member, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.resuming > 0 {
		r.waitLocked()
	}
	if r.closed {
		return nil, ErrClosed
	}
	r.quiesced = true
	if r.calls == nil {
		r.calls = make(map[*quiesceCall]struct{})
	}
	r.calls[call] = struct{}{}
	return r.stagesLocked(), nil
}

// end ends begin.
func (r *Registry) end(call *quiesceCall) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.calls, call)
	r.wakeLocked()
}

// Resume ends Quiesce, also one that is under way: senders first, then stage by stage from
// the last, so that who handles a message finds what it needs. Without a Quiesce it does
// nothing.
func (r *Registry) Resume() {
	stages, quiesced := r.beginResume()
	defer r.endResume()
	if !quiesced {
		return
	}
	for _, s := range slices.Backward(r.senders) {
		s.Resume()
	}
	for _, stage := range slices.Backward(slices.Sorted(maps.Keys(stages))) {
		for _, m := range stages[stage] {
			m.quiescer.Resume()
		}
	}
}

// beginResume ends the calls of Quiesce that are under way and waits for them. Until
// endResume there are no others.
func (r *Registry) beginResume() (stages map[Stage][]member, quiesced bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resuming++
	for call := range r.calls {
		call.cancel(ErrResumed)
	}
	for len(r.calls) > 0 {
		r.waitLocked()
	}
	quiesced = r.quiesced
	r.quiesced = false
	return r.stagesLocked(), quiesced
}

func (r *Registry) endResume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resuming--
	r.wakeLocked()
}

// waitLocked waits until something has changed.
func (r *Registry) waitLocked() {
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	changed := r.changed
	r.mu.Unlock()
	<-changed
	r.mu.Lock()
}

func (r *Registry) wakeLocked() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}
