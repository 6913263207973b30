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
	lanes   *Lanes // from which a batch takes what waits behind its messages; nil for none
	waits   bool   // a worker waits for a whole batch
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

// FillFrom has each batch take the messages too that wait in l behind those of the queue. To be
// called before there are any. CheckBatch must follow when more wait there.
func (q *Queue) FillFrom(l *Lanes) { q.needAdmission().batcher.lanes = l }

// CheckBatch looks whether the lanes have what is missing for a whole batch.
func (q *Queue) CheckBatch() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if a := q.admission; a != nil && a.batcher.isWhole(q.backlog.n) {
		a.look.Broadcast()
	}
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

// isWhole reports whether a worker waits for a whole batch that is there, when so many messages
// are in the queue.
func (b *batcher) isWhole(queued int) bool { return b.waits && !b.waitsForMore(queued) }

// waitsForMore reports whether the messages, so many in the queue and what waits behind
// them, are to wait for more.
func (b *batcher) waitsForMore(queued int) bool {
	if b.hurried > 0 || queued >= b.size {
		return false
	}
	return b.lanes == nil || queued+b.lanes.Ready() < b.size
}

// take returns a batch of first and what follows it in the backlog, nil without batches. So many
// batches may run at once.
func (b *batcher) take(first wire.Delivery, backlog *ring, concurrency int) (batch []wire.Delivery) {
	if b.run == nil {
		return nil
	}
	batch = append(make([]wire.Delivery, 0, min(b.size, backlog.n+1)), first)
	if b.lanes != nil {
		batch = b.fillByKey(batch, backlog, concurrency)
	} else {
		for len(batch) < b.size && backlog.n > 0 {
			batch = append(batch, backlog.pop())
			b.hurried--
		}
	}
	b.hurried = max(b.hurried-1, 0)
	return batch
}

// fillByKey fills a batch that has its first message. A key that is in one batch can be in no
// other one, so it takes its share of the keys first. Of these it takes equal numbers as far as it
// can: so the fewest come again when one fails. Others it takes only to be whole.
func (b *batcher) fillByKey(batch []wire.Delivery, backlog *ring, concurrency int) []wire.Delivery {
	share := (b.lanes.Keys() + concurrency - 1) / concurrency
	keys := min(max(share, 1), 1+backlog.n, b.size)
	for len(batch) < keys {
		batch = append(batch, backlog.pop())
		b.hurried--
	}
	for i := range keys {
		batch = b.addBehind(batch, batch[i], (b.size-len(batch))/(keys-i))
	}
	for i := 0; i < keys && len(batch) < b.size; i++ {
		batch = b.addBehind(batch, batch[i], b.size-len(batch))
	}
	for len(batch) < b.size && backlog.n > 0 {
		next := backlog.pop()
		b.hurried--
		batch = b.addBehind(append(batch, next), next, b.size-len(batch)-1)
	}
	return batch
}

// addBehind adds n messages at most that wait behind d. One that is tried again is the only one
// of its key: those behind it would come again each time that it fails.
func (b *batcher) addBehind(batch []wire.Delivery, d wire.Delivery, n int) []wire.Delivery {
	if d.Stored.Key == "" {
		return batch
	}
	if d.Stored.TriedBefore() {
		n = 0
	}
	return append(batch, b.lanes.TakeMore(d.Stored.Key, n)...)
}
