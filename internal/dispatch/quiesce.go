package dispatch

import (
	"fmt"

	"github.com/omnibus-go/bus/internal/plural"
)

// RunningError says that handlers run still where somebody waited for them.
type RunningError struct {
	Running int   // handlers
	Err     error // why it was not waited longer
}

func (e *RunningError) Error() string {
	return fmt.Sprintf("%s: %v", plural.Of(e.Running, "handler still runs", "handlers still run"), e.Err)
}

// Unwrap returns why it was not waited longer.
func (e *RunningError) Unwrap() error { return e.Err }

// StillRunning returns a *RunningError for err, why nobody waits longer, or nil where err is
// nil or nothing runs any more.
func StillRunning(running int, err error) error {
	if err == nil || running == 0 {
		return nil
	}
	return &RunningError{Running: running, Err: err}
}

// Quiesce makes the queue begin nothing until Resume or Stop. Push goes on to take messages
// in. Enter and Do wait. What runs goes on; Wait waits for it.
func (q *Queue) Quiesce() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.quiesced = true
	q.barred.Store(true)
	q.lookLocked()
	q.notifyLocked()
}

// Resume ends Quiesce. Without one it does nothing.
func (q *Queue) Resume() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.quiesced = false
	q.barred.Store(q.stopped)
	q.room.Broadcast()
	for range min(q.backlog.n, q.concurrency) {
		if q.startLocked() {
			go q.work()
		}
	}
}

// IsQuiesced reports whether the queue is quiesced.
func (q *Queue) IsQuiesced() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.quiesced
}

// BeginUntil has the queue begin nothing that was pushed once stopping is closed, also after
// Resume. Push goes on to take messages in, for Stop. What runs goes on. To be called before
// there are messages.
func (q *Queue) BeginUntil(stopping <-chan struct{}) { q.stopping = stopping }

// IsStopping reports whether the channel of BeginUntil is closed.
func (q *Queue) IsStopping() bool {
	select {
	case <-q.stopping:
		return true
	default:
		return false
	}
}

// awaitResume waits until the queue is not quiesced. It returns false when it has stopped.
// Enter calls it.
func (q *Queue) awaitResume() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.quiesced && !q.stopped {
		q.room.Wait()
	}
	return !q.stopped
}
