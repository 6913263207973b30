package dispatch

import (
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// admission is where messages wait that may not begin as soon as a worker is free: the
// pacer says when the next one may, the batcher whether enough of them are there. One
// worker waits for both; when it begins it has the next one wait. Guarded by the queue's
// mu. Queue.admission is nil where messages begin one by one, as soon as they can.
type admission struct {
	pacer   pacer
	batcher batcher

	look  sync.Cond // something to look at for the worker that waits
	taken bool      // a worker waits
}

// needAdmission returns the queue's admission, which it makes where there is none.
func (q *Queue) needAdmission() *admission {
	if q.admission == nil {
		q.admission = &admission{batcher: batcher{size: 1}}
		q.admission.look.L = &q.mu
	}
	return q.admission
}

// lookLocked has the worker that waits look again, if there is one.
func (q *Queue) lookLocked() {
	if q.admission != nil {
		q.admission.look.Broadcast()
	}
}

// busyLocked reports whether a worker waits. It looks again when so many messages are a
// whole batch.
func (a *admission) busyLocked(waiting int) bool {
	if !a.taken {
		return false
	}
	if waiting == a.batcher.size {
		a.look.Broadcast()
	}
	return true
}

// openLocked waits until messages may begin or there are none. It returns false when
// another worker waits already. A worker calls it.
func (a *admission) openLocked(q *Queue) bool {
	if a.taken {
		return false
	}
	a.taken = true
	a.awaitLocked(q)
	a.taken = false
	return true
}

// awaitLocked waits until the pacer and the batcher let a message begin, or nothing may.
func (a *admission) awaitLocked(q *Queue) {
	whole := time.Now().Add(a.batcher.wait)
	for q.runsLocked() {
		at := a.pacer.next
		if a.batcher.waitsForMore(q.backlog.n) && whole.After(at) {
			at = whole
		}
		left := time.Until(at)
		if left <= 0 {
			return
		}
		timer := time.AfterFunc(left, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			a.look.Broadcast()
		})
		a.look.Wait()
		timer.Stop()
	}
}

// takeLocked returns the batch that begins with first, nil without batches, and has the
// next worker wait for what is left.
func (a *admission) takeLocked(q *Queue, first wire.Delivery) (batch []wire.Delivery) {
	batch = a.batcher.take(first, &q.backlog)
	a.pacer.began(time.Now(), max(len(batch), 1))
	if q.backlog.n > 0 && q.startLocked() {
		go q.work()
	}
	return batch
}
