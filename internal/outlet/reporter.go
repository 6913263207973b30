package outlet

import (
	"context"
	"sync"

	"github.com/omnibus-go/bus/internal/dispatch"
)

// maxQueuedReports limits the memory for calls that wait. Further messages are only counted.
const maxQueuedReports = 1000

// reporter calls the functions of AsyncConfig for messages that could not be sent. It calls
// them in order, on a goroutine of its own, because they may take long, publish, or end
// the Async. The goroutine starts when there is something to report, and ends when there
// is nothing more. Drain waits for it. The zero value is ready to use. Safe for concurrent
// use.
type reporter struct {
	mu        sync.Mutex
	queue     []func()
	uncalled  int       // messages that are only counted
	count     func(int) // reports their number
	goroutine dispatch.Goroutine
	ended     chan struct{} // closed when the goroutine ends; nil while there is none
}

// report queues one call. If the queue is full it counts the message instead.
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

// reportCount adds a number of messages that are only counted.
func (r *reporter) reportCount(messages int, count func(int)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uncalled, r.count = r.uncalled+messages, count
	r.startLocked()
}

// startLocked starts the goroutine if it does not run.
func (r *reporter) startLocked() {
	if r.ended == nil {
		r.ended = make(chan struct{})
		go r.run()
	}
}

// run is the goroutine. It makes all calls and ends.
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

// nextLocked returns the next call, or nil if there is none.
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

// await waits until all calls are made or ctx ends. It does not wait if the goroutine
// recorded in ctx is the reporter's own.
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

// isCaller reports whether the goroutine recorded in ctx is the reporter's own.
func (r *reporter) isCaller(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.goroutine.IsCaller(ctx)
}
