package dispatch

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// Run is a run that goes on; of several messages the first.
type Run struct {
	Subject  string
	Sequence uint64
	Since    time.Time

	more int // messages beside the first
}

// begin notes a stored message; for others the clock is not worth its time.
func (r *Run) begin(d *wire.Delivery) {
	if d.Stored != nil {
		*r = Run{Subject: d.Subject, Sequence: d.Stored.Sequence, Since: time.Now()}
	}
}

func (r *Run) end() { *r = Run{} }

// ownRuns is what the caller that ctx notes runs: one worker's messages, or nothing.
func (q *Queue) ownRuns(ctx context.Context) (workers, messages int) {
	if !q.RunsCaller(ctx) {
		return 0, 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if r := q.workers[caller(ctx)]; r != nil {
		return 1, 1 + r.more
	}
	return 1, 1
}

// Longest is the run of a stored message that has been going on for longest; ok is
// false when there is none.
func (q *Queue) Longest() (longest Run, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range q.workers {
		if !r.Since.IsZero() && (!ok || r.Since.Before(longest.Since)) {
			longest, ok = *r, true
		}
	}
	return longest, ok
}
