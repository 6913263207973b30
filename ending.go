package bus

import (
	"context"
	"sync"
)

// ending is how a subscription or a consumer comes to its end, once. The first
// call does the work; later ones wait for it.
type ending struct {
	once sync.Once
	done chan struct{} // closed when the work has been done
	err  error         // its result, valid then
}

func newEnding() ending { return ending{done: make(chan struct{})} }

// taker is what ends: it takes messages in and runs handlers.
type taker interface {
	runsCaller(ctx context.Context) bool // the caller that ctx notes is one of its handlers
	unfinished(why error) error          // what it leaves behind when it cannot wait longer
}

// finish ends t by how. Who comes later waits for the first one until ctx ends;
// but not a handler of t, for which the first one waits.
func (e *ending) finish(ctx context.Context, t taker, how func() error) error {
	first := false
	e.once.Do(func() { first = true })
	if first {
		e.err = how()
		close(e.done)
		return e.err
	}
	if t.runsCaller(ctx) {
		return nil
	}
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return t.unfinished(context.Cause(ctx))
	}
}
