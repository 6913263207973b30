// Package dispatch runs messages: it decides which goroutine calls the handler,
// how many handlers run at once, and tells when none does any more. It knows no
// NATS.
package dispatch

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/omnibus-go/bus/internal/wire"
)

// Queue runs deliveries, at most as many at once as its concurrency.
//
// A source uses one of three ways in. Do is for a source that keeps its own backlog: it
// makes the source wait. With a concurrency of one such a source may run the messages by
// itself, between Enter and Leave, which saves the hop (a fifth of the time of a small
// message). Push is for a source that asks for no more than it has room for: it never
// waits.
//
// States: open ⇄ quiesced → stopped, and open → stopped. Workers are started when there is
// something to run and end when there is nothing; but one, once started, is idleWorker instead until Stop, since
// to start one costs more than many a handler. Wait waits for those that run
// something, Stop for the idleWorker one.
type Queue struct {
	run         func(wire.Delivery)
	exited      func() // a run between Enter and Leave has ended its goroutine; may be nil
	concurrency int
	begun       atomic.Int64  // runs begun
	ended       atomic.Int64  // runs ended
	inline      atomic.Uint64 // the goroutine that calls Enter
	watched     atomic.Bool   // somebody waits in Wait
	barred      atomic.Bool   // Enter may not begin: stopped or quiesced; written under mu

	mu         sync.Mutex
	room       sync.Cond   // the backlog got shorter
	idle       sync.Cond   // for the idleWorker worker: there is something to run, or Stop; and that it has gone
	idleWorker *idleWorker // nil while there is none
	admission  *admission  // nil where messages begin one by one, as soon as they can
	stopped    bool
	quiesced   bool // begin nothing for now
	backlog    ring
	workers    map[uint64]*Run // by the goroutine ids of running workers
	started    int             // workers started and not ended
	quiet      chan struct{}   // closed when nothing runs, made by Wait
}

// New returns an open queue that calls run for each message, on up to
// concurrency goroutines at once. run must not panic. It may end its goroutine: a
// worker is replaced then; a goroutine that calls Enter is its owner's to replace.
func New(concurrency int, run func(wire.Delivery)) *Queue {
	q := &Queue{run: run, concurrency: concurrency}
	q.room.L, q.idle.L = &q.mu, &q.mu
	return q
}

// OnExit has fn called when a run that Enter began ends its goroutine. To be called
// before Enter.
func (q *Queue) OnExit(fn func()) { q.exited = fn }

// Concurrency is the number of messages that may run at once.
func (q *Queue) Concurrency() int { return q.concurrency }

// Enter begins a run on the calling goroutine, the only one that may call it, where the
// concurrency is one. It returns which run it is, from 1. Leave must follow. While the
// queue is quiesced it waits. After Stop it does nothing and returns false.
//
// It counts the run before it looks whether it may begin: so either it sees that it may
// not, or a Wait after Quiesce or Stop sees the run.
func (q *Queue) Enter() (number int64, ok bool) {
	if q.inline.Load() == 0 {
		q.inline.Store(goroutineID())
	}
	for {
		number = q.begun.Add(1)
		if !q.barred.Load() {
			return number, true
		}
		q.begun.Add(-1)
		q.notify()
		if !q.awaitResume() {
			return 0, false
		}
	}
}

// Leave ends the run that Enter began. It is to be deferred: returned says whether the
// run has returned, or has ended its goroutine.
func (q *Queue) Leave(returned *bool) {
	q.recordEnd(1)
	if !*returned && q.exited != nil {
		q.exited()
	}
}

// Do hands d to a worker, waiting while as many messages as the concurrency wait
// already. After Stop it does nothing and returns false. One goroutine at a time may
// call it.
func (q *Queue) Do(d wire.Delivery) bool {
	q.mu.Lock()
	for q.backlog.n >= q.concurrency && !q.stopped {
		q.room.Wait()
	}
	return q.add(d)
}

// Push adds d to the backlog. After Stop it does nothing and returns false.
func (q *Queue) Push(d wire.Delivery) bool {
	q.mu.Lock()
	return q.add(d)
}

// add appends d and starts a worker if one may start. It unlocks q.mu.
func (q *Queue) add(d wire.Delivery) bool {
	if q.stopped {
		q.mu.Unlock()
		return false
	}
	q.backlog.push(d)
	start := q.startLocked()
	q.mu.Unlock()
	if start {
		go q.work()
	}
	return true
}

// startLocked has one more worker look at the backlog, if one may: the idleWorker one, or
// a new one if it returns true.
func (q *Queue) startLocked() (start bool) {
	if q.quiesced || q.admission.busyLocked(q.backlog.n) {
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

// work runs the backlog until it is empty, again and again while it is the one that
// is idleWorker.
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

// leaveLocked ends a worker, and unlocks q.mu. One that was not done was ended by what
// it ran: another one takes its place.
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

// idleWorker identifies a worker that is idleWorker.
type idleWorker struct{ _ byte }

// idleLocked waits until there is something to run. It returns false at once where
// another worker is idleWorker, and when the queue stops.
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
		return true // add has counted it
	}
	q.idleWorker = nil
	q.idle.Broadcast()
	return false
}

// workLocked runs what waits, as long as it may. now is what it runs.
func (q *Queue) workLocked(now *Run) {
	for q.admission.openLocked(q) && q.runsLocked() {
		d := q.backlog.pop()
		now.begin(&d)
		batch := q.admission.takeLocked(q, d)
		now.more = max(len(batch)-1, 0)
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

// runsLocked reports whether there is something that may begin.
func (q *Queue) runsLocked() bool {
	return q.backlog.n > 0 && !q.quiesced && !q.stopped
}

func (q *Queue) invoke(d wire.Delivery) {
	d.Number = q.begun.Add(1)
	defer q.recordEnd(1)
	q.run(d)
}

// recordEnd counts runs that ended, in whatever way.
func (q *Queue) recordEnd(n int64) {
	q.ended.Add(n)
	q.notify()
}

// tell is notifyLocked where somebody waits.
func (q *Queue) notify() {
	if q.watched.Load() {
		q.mu.Lock()
		q.notifyLocked()
		q.mu.Unlock()
	}
}

// notifyLocked tells a waiting Wait to look again.
func (q *Queue) notifyLocked() {
	if q.quiet != nil {
		close(q.quiet)
		q.quiet = nil
	}
}

// Begun is the number of runs begun so far.
func (q *Queue) Begun() int64 { return q.begun.Load() }

// Ended is the number of runs ended so far.
func (q *Queue) Ended() int64 { return q.ended.Load() }

// InFlight is the number of messages that are running.
func (q *Queue) InFlight() int {
	ended := q.ended.Load() // first: a run that begins between the two must not count as ended
	return int(q.begun.Load() - ended)
}

// Backlog is the number of messages that wait in the queue, and their bytes.
func (q *Queue) Backlog() (msgs, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.backlog.n, q.backlog.bytes
}

// Stop makes the queue refuse messages and returns those that wait, in order.
// Running ones go on; Wait waits for them. It may be called again.
func (q *Queue) Stop() []wire.Delivery {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.barred.Store(true)
	q.room.Broadcast()
	q.admission.lookLocked()
	for q.idle.Broadcast(); q.idleWorker != nil; {
		q.idle.Wait()
	}
	left := make([]wire.Delivery, 0, q.backlog.n)
	for q.backlog.n > 0 {
		left = append(left, q.backlog.pop())
	}
	return left
}

// Wait waits until nothing waits (unless the queue rests) and nothing runs, or until
// ctx ends; then it returns the cause of ctx. When ctx comes from FromCaller and that caller is
// running one of the queue's messages, it does not wait for that one.
func (q *Queue) Wait(ctx context.Context) error {
	workers, own := q.ownRuns(ctx)
	q.watched.Store(true)
	for {
		q.mu.Lock()
		if !q.runsLocked() && q.InFlight() <= own && q.started <= workers {
			q.mu.Unlock()
			return nil
		}
		if q.quiet == nil {
			q.quiet = make(chan struct{})
		}
		quiet := q.quiet
		q.mu.Unlock()
		select {
		case <-quiet:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// RunsCaller reports whether the goroutine that FromCaller noted in ctx is
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
