package lifecycle

import (
	"context"
	"sync"
)

// StopOnce stops something once. The first call does the work, on its own goroutine.
// Later calls wait for it. The root has one for the bus, and one for each subscription
// and each consumer. Safe for concurrent use.
type StopOnce struct {
	once sync.Once
	done chan struct{} // closed when the work has been done
	err  error         // its result, valid when done is closed
}

// NewStopOnce returns a StopOnce that has not been used.
func NewStopOnce() *StopOnce { return &StopOnce{done: make(chan struct{})} }

// Do calls stop, if it is the first call, and returns its error. A later call returns the
// same error when the first one has ended. It has two exceptions. When runsCaller reports
// that the caller is a handler that the first call waits for, it returns nil at once:
// both would wait for ever. When ctx ends first, it returns unfinished(cause of ctx).
func (s *StopOnce) Do(ctx context.Context, stop func() error, runsCaller func(context.Context) bool, unfinished func(why error) error) error {
	first := false
	s.once.Do(func() { first = true })
	if first {
		s.err = stop()
		close(s.done)
		return s.err
	}
	if runsCaller(ctx) {
		return nil
	}
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return unfinished(context.Cause(ctx))
	}
}

// Done returns a channel that is closed when the first call of Do has ended.
func (s *StopOnce) Done() <-chan struct{} { return s.done }
