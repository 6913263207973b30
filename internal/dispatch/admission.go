package dispatch

import (
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// admission is where messages wait that may not begin as soon as a worker is free: until
// their turn comes, or until a batch of them is whole. One worker waits at it; whoever
// goes in lets the next one come. Guarded by the queue's mu. A nil admission is open.
type admission struct {
	look  sync.Cond // something to look at for the one who waits
	taken bool      // somebody waits

	every time.Duration // between the beginnings of two messages
	next  time.Time     // when the next one may begin

	size int           // messages that make a batch; 1 without batches
	wait time.Duration // how long one that is not whole waits for more
	late int           // so many of those in the queue have waited before, and begin as they are
	run  func([]wire.Delivery)
}

func (q *Queue) needAdmission() *admission {
	if q.admission == nil {
		q.admission = &admission{size: 1}
		q.admission.look.L = &q.mu
	}
	return q.admission
}

// Pace lets messages that were pushed begin one by one with so much time in between.
// To be called before there are any.
func (q *Queue) Pace(every time.Duration) { q.needAdmission().every = every }

// NewBatches returns an open queue for Push that gives run up to size messages at
// once, in order: as many as there are when it has waited for more of them for so
// long. concurrency is the number of batches that may run at once; the numbers of what
// runs are those of messages.
func NewBatches(concurrency, size int, wait time.Duration, run func([]wire.Delivery)) *Queue {
	q := New(concurrency, func(wire.Delivery) {})
	d := q.needAdmission()
	d.size, d.wait, d.run = size, wait, run
	return q
}

// Hurry has what is in the queue begin without a wait for a whole batch.
func (q *Queue) Hurry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.admission != nil {
		q.admission.late = q.backlog.n
		q.admission.lookLocked()
	}
}

// lookLocked has the one who waits look again.
func (d *admission) lookLocked() {
	if d != nil {
		d.look.Broadcast()
	}
}

// busyLocked reports whether somebody waits, who is told when a batch is whole.
func (d *admission) busyLocked(waiting int) bool {
	if d == nil || !d.taken {
		return false
	}
	if waiting == d.size {
		d.look.Broadcast()
	}
	return true
}

// openLocked waits until messages may begin or there are none. It returns false when
// somebody else waits already.
func (d *admission) openLocked(q *Queue) bool {
	if d == nil {
		return true
	}
	if d.taken {
		return false
	}
	d.taken = true
	d.awaitLocked(q)
	d.taken = false
	return true
}

func (d *admission) awaitLocked(q *Queue) {
	whole := time.Now().Add(d.wait)
	for q.runsLocked() {
		open := d.next
		if q.backlog.n < d.size && d.late == 0 && whole.After(open) {
			open = whole
		}
		left := time.Until(open)
		if left <= 0 {
			return
		}
		timer := time.AfterFunc(left, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			d.look.Broadcast()
		})
		d.look.Wait()
		timer.Stop()
	}
}

// takeLocked returns the batch that first begins, nil without batches, and lets the
// next worker come to the admission.
func (d *admission) takeLocked(q *Queue, first wire.Delivery) (batch []wire.Delivery) {
	if d == nil {
		return nil
	}
	n := 1
	if d.run != nil {
		batch = append(make([]wire.Delivery, 0, min(d.size, q.backlog.n+1)), first)
		for len(batch) < d.size && q.backlog.n > 0 {
			batch = append(batch, q.backlog.pop())
		}
		n = len(batch)
		d.late = max(d.late-n, 0)
	}
	if now := time.Now(); d.next.Before(now) {
		d.next = now
	}
	d.next = d.next.Add(time.Duration(n) * d.every)
	if q.backlog.n > 0 && q.startLocked() {
		go q.work()
	}
	return batch
}

// invokeAll runs a batch.
func (q *Queue) invokeAll(batch []wire.Delivery) {
	last := q.begun.Add(int64(len(batch)))
	for i := range batch {
		batch[i].Number = last - int64(len(batch)-1-i)
	}
	defer q.recordEnd(int64(len(batch)))
	q.admission.run(batch)
}
