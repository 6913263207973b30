package switchover

import (
	"errors"
	"sync"
)

// group is goroutines that work on parts, at most maxParallel at a time, and their errors.
type group struct {
	room chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	errs []error
}

func newGroup() *group { return &group{room: make(chan struct{}, maxParallel)} }

// Go calls do in a goroutine.
func (g *group) Go(do func() error) {
	g.wg.Go(func() {
		g.room <- struct{}{}
		defer func() { <-g.room }()
		g.add(do())
	})
}

func (g *group) add(err error) {
	if err == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.errs = append(g.errs, err)
}

// Wait waits for all goroutines, and returns their errors.
func (g *group) Wait() error {
	g.wg.Wait()
	return errors.Join(g.errs...)
}

func (g *group) failed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.errs) > 0
}

// each calls do for all, some at the same time, and returns the first errors. After an error it
// begins no other.
func each[T any](all []T, do func(T) error) error {
	g := newGroup()
	for _, one := range all {
		g.room <- struct{}{}
		if g.failed() {
			break
		}
		g.wg.Go(func() {
			defer func() { <-g.room }()
			g.add(do(one))
		})
	}
	return g.Wait()
}
