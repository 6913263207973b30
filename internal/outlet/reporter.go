package outlet

import (
	"context"
	"sync"

	"github.com/omnibus-go/bus/internal/dispatch"
)

// mostUntold bounds the memory for what waits to be told; beyond it messages are
// counted only.
const maxQueuedReports = 1000

// teller tells what could not be sent, in order, on a goroutine of its own: whoever
// is told may take long, publish, or end the Async. The goroutine begins when there
// is something to tell and ends when there is nothing. The zero value is ready to
// use. Safe for concurrent use.
type reporter struct {
	mu        sync.Mutex
	queue     []func()
	uncalled  int       // messages that are counted only
	count     func(int) // tells of those
	goroutine dispatch.Goroutine
	ended     chan struct{} // closed when the goroutine ends; nil while there is none
}

// tell has one called, or its message counted.
func (r *reporter) report(one func(), count func(int)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) < maxQueuedReports {
		r.queue = append(r.queue, one)
	} else {
		r.uncalled, r.count = r.uncalled+1, count
	}
	r.startLocked()
}

// lost has so many messages counted.
func (r *reporter) reportCount(messages int, count func(int)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uncalled, r.count = r.uncalled+messages, count
	r.startLocked()
}

func (r *reporter) startLocked() {
	if r.ended == nil {
		r.ended = make(chan struct{})
		go r.run()
	}
}

func (r *reporter) run() {
	r.mu.Lock()
	r.goroutine = dispatch.Here()
	for next := r.nextLocked(); next != nil; next = r.nextLocked() {
		r.mu.Unlock()
		next()
		r.mu.Lock()
	}
	close(r.ended)
	r.goroutine, r.ended = 0, nil
	r.mu.Unlock()
}

func (r *reporter) nextLocked() func() {
	if len(r.queue) > 0 {
		next := r.queue[0]
		r.queue = r.queue[1:]
		return next
	}
	if n, count := r.uncalled, r.count; n > 0 {
		r.uncalled = 0
		return func() { count(n) }
	}
	return nil
}

// await waits until all is told or ctx ends; not for the caller that ctx notes.
func (r *reporter) await(ctx context.Context) {
	r.mu.Lock()
	ended := r.ended
	r.mu.Unlock()
	if ended == nil || r.isCaller(ctx) {
		return
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

func (r *reporter) isCaller(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.goroutine.IsCaller(ctx)
}
