package dispatch

import (
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// batcher gathers messages for one run. Guarded by the queue's mu.
type batcher struct {
	size    int           // messages that make a batch; 1 without batches
	wait    time.Duration // how long a batch that is not whole waits for more
	hurried int           // so many of those in the queue have waited before, and begin as they are
	run     func([]wire.Delivery)
}

// NewBatches returns an open queue for Push that gives run up to size messages at
// once, in order: as many as there are when it has waited for more of them for so
// long. concurrency is the number of batches that may run at once; the numbers of what
// runs are those of messages.
func NewBatches(concurrency, size int, wait time.Duration, run func([]wire.Delivery)) *Queue {
	q := New(concurrency, func(wire.Delivery) {})
	q.needAdmission().batcher = batcher{size: size, wait: wait, run: run}
	return q
}

// Hurry has what is in the queue begin without a wait for a whole batch.
func (q *Queue) Hurry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.admission != nil {
		q.admission.batcher.hurried = q.backlog.n
		q.admission.look.Broadcast()
	}
}

// waitsForMore reports whether so many messages are to wait for more.
func (b *batcher) waitsForMore(waiting int) bool { return waiting < b.size && b.hurried == 0 }

// take returns a batch of first and what follows it in the backlog, nil without batches.
func (b *batcher) take(first wire.Delivery, backlog *ring) (batch []wire.Delivery) {
	if b.run == nil {
		return nil
	}
	batch = append(make([]wire.Delivery, 0, min(b.size, backlog.n+1)), first)
	for len(batch) < b.size && backlog.n > 0 {
		batch = append(batch, backlog.pop())
	}
	b.hurried = max(b.hurried-len(batch), 0)
	return batch
}
