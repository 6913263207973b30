package dispatch

import (
	"context"
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// startLocked has one more worker look at the backlog, if one may: the idle one, or
// a new one if it returns true.
func (q *Queue) startLocked() (start bool) {
	if q.quiesced || q.admission != nil && q.admission.busyLocked(q.backlog.n) {
		return false
	}
	if q.idleWorker != nil {
		q.idleWorker = nil
		q.started++
		q.idle.Broadcast()
		return false
	}
	if start = q.started < q.concurrency; start {
		q.started++
	}
	return start
}

// work is a worker: it runs the backlog until it is empty, again and again while it is
// the idle worker.
func (q *Queue) work() {
	id, done := goroutineID(), false
	q.mu.Lock()
	defer func() { q.leaveLocked(id, done) }()
	if q.workers == nil {
		q.workers = make(map[uint64]*Run)
	}
	now := new(Run)
	q.workers[id] = now
	for again := true; again; again = q.idleLocked() {
		q.workLocked(now)
		q.started--
		q.notifyLocked()
	}
	done = true
}

// leaveLocked ends a worker, and unlocks q.mu. One that was not done was ended by the
// handler: another one takes its place.
func (q *Queue) leaveLocked(id uint64, done bool) {
	defer q.mu.Unlock()
	delete(q.workers, id)
	if done {
		return
	}
	q.started--
	q.notifyLocked()
	if q.runsLocked() && q.startLocked() {
		go q.work()
	}
}

// idleWorker identifies a worker that is idle.
type idleWorker struct{ _ byte }

// idleLocked waits until there is something to run. It returns false at once where
// another worker is idle, and when the queue stops. A worker calls it.
func (q *Queue) idleLocked() bool {
	if q.idleWorker != nil || q.stopped {
		return false
	}
	self := new(idleWorker)
	q.idleWorker = self
	for q.idleWorker == self && !q.stopped {
		q.idle.Wait()
	}
	if q.idleWorker != self {
		return true // startLocked has counted it
	}
	q.idleWorker = nil
	q.idle.Broadcast()
	return false
}

// workLocked runs what waits, as long as it may. now is what the worker runs.
func (q *Queue) workLocked(now *Run) {
	for (q.admission == nil || q.admission.openLocked(q)) && q.runsLocked() {
		d := q.backlog.pop()
		now.begin(&d)
		var batch []wire.Delivery
		if q.admission != nil {
			batch = q.admission.takeLocked(q, d)
			now.more = max(len(batch)-1, 0)
		}
		q.room.Signal()
		q.callLocked(d, batch)
		now.end()
	}
}

// callLocked runs d, or the batch if there is one, without the lock. It is locked
// again also where that ends the goroutine.
func (q *Queue) callLocked(d wire.Delivery, batch []wire.Delivery) {
	q.mu.Unlock()
	defer q.mu.Lock()
	if batch == nil {
		q.invoke(d)
	} else {
		q.invokeAll(batch)
	}
}

// invoke runs one message and counts it.
func (q *Queue) invoke(d wire.Delivery) {
	d.Number = q.begun.Add(1)
	defer q.recordEnd(1)
	q.run(d)
}

// invokeAll runs a batch and counts its messages.
func (q *Queue) invokeAll(batch []wire.Delivery) {
	last := q.begun.Add(int64(len(batch)))
	for i := range batch {
		batch[i].Number = last - int64(len(batch)-1-i)
	}
	defer q.recordEnd(int64(len(batch)))
	q.admission.batcher.run(batch)
}

// Run is a handler call that goes on; of several messages it names the first.
type Run struct {
	Subject  string
	Sequence uint64
	Since    time.Time

	more int // messages beside the first
}

// begin records a stored message; for others the clock is not worth its time.
func (r *Run) begin(d *wire.Delivery) {
	if d.Stored != nil {
		*r = Run{Subject: d.Subject, Sequence: d.Stored.Sequence, Since: time.Now()}
	}
}

func (r *Run) end() { *r = Run{} }

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

// RunsCaller reports whether the goroutine that FromCaller put into ctx is
// running one of the queue's messages, as when a handler closes its own bus.
func (q *Queue) RunsCaller(ctx context.Context) bool {
	id := caller(ctx)
	if id == 0 || q.InFlight() == 0 {
		return false
	}
	if q.inline.Load() == id {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.workers[id]
	return ok
}

// ownRuns is what the caller that ctx names runs: one worker's messages, or nothing.
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

// busyLocked reports whether a worker waits. It looks again when a batch with so many messages
// is whole.
func (a *admission) busyLocked(waiting int) bool {
	if a.batcher.isWhole(waiting) {
		a.look.Broadcast()
	}
	return a.taken
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
	defer func() { a.batcher.waits = false }()
	for q.runsLocked() {
		at := a.pacer.next
		a.batcher.waits = a.batcher.waitsForMore(q.backlog.n)
		if a.batcher.waits && whole.After(at) {
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
	batch = a.batcher.take(first, &q.backlog, q.concurrency)
	a.pacer.began(time.Now(), max(len(batch), 1))
	if q.backlog.n > 0 && q.startLocked() {
		go q.work()
	}
	return batch
}
