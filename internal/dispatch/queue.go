package dispatch

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/omnibus-go/bus/internal/wire"
)

// Queue runs deliveries, at most as many at once as its concurrency. The package comment
// says how. Safe for concurrent use.
//
// A source uses one of three ways in. Do is for a source that keeps its own backlog: it
// makes the source wait. With a concurrency of one such a source may run the messages by
// itself, between Enter and Leave, which saves the hop (a fifth of the time of a small
// message). Push is for a source that asks for no more than it has room for: it never
// waits.
type Queue struct {
	run         func(wire.Delivery)
	concurrency int
	stopping    <-chan struct{} // see BeginUntil
	begun       atomic.Int64    // runs begun
	ended       atomic.Int64    // runs ended
	inline      atomic.Uint64   // the goroutine that calls Enter
	watched     atomic.Bool     // somebody waits in Wait
	barred      atomic.Bool     // Enter may not begin: stopped or quiesced; written under mu

	mu         sync.Mutex
	room       sync.Cond   // the backlog got shorter
	idle       sync.Cond   // for the idle worker: there is something to run, or Stop; and that it has gone
	idleWorker *idleWorker // nil while there is none
	admission  *admission  // nil where messages begin one by one, as soon as they can
	stopped    bool
	quiesced   bool // begin nothing for now
	backlog    ring
	workers    map[uint64]*Run // by the goroutine ids of running workers
	started    int             // workers started and not ended, except for the idle one
	quiet      chan struct{}   // closed when nothing runs, made by Wait
}

// New returns an open queue that calls run for each message, on up to
// concurrency goroutines at once. run must not panic. It may end its goroutine.
func New(concurrency int, run func(wire.Delivery)) *Queue {
	q := &Queue{run: run, concurrency: concurrency}
	q.room.L, q.idle.L = &q.mu, &q.mu
	return q
}

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

// Leave ends the run that Enter began.
func (q *Queue) Leave() { q.recordEnd(1) }

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

// runsLocked reports whether there is something that may begin.
func (q *Queue) runsLocked() bool {
	return q.backlog.n > 0 && !q.quiesced && !q.stopped && !q.IsStopping()
}

// recordEnd counts runs that ended, in whatever way.
func (q *Queue) recordEnd(n int64) {
	q.ended.Add(n)
	q.notify()
}

// notify is notifyLocked where somebody waits.
func (q *Queue) notify() {
	if q.watched.Load() {
		q.mu.Lock()
		q.notifyLocked()
		q.mu.Unlock()
	}
}

// notifyLocked has Wait look again.
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
	q.lookLocked()
	for q.idle.Broadcast(); q.idleWorker != nil; {
		q.idle.Wait()
	}
	left := make([]wire.Delivery, 0, q.backlog.n)
	for q.backlog.n > 0 {
		left = append(left, q.backlog.pop())
	}
	return left
}

// Wait waits until nothing waits (unless the queue is quiesced or begins nothing any more) and
// nothing runs, or until ctx ends; then it returns the cause of ctx. When ctx comes from FromCaller and that caller is
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

// ring is the backlog: a first-in first-out buffer that grows as needed. The zero value is
// empty. Not safe for concurrent use.
type ring struct {
	buf   []wire.Delivery // its length is a power of two
	head  int
	n     int
	bytes int
}

const (
	minRing = 8
	// maxKeptRing is the largest buffer an emptied ring keeps: a burst should not
	// hold its memory for ever.
	maxKeptRing = 1024
)

func (r *ring) push(d wire.Delivery) {
	if r.n == len(r.buf) {
		r.grow()
	}
	r.buf[(r.head+r.n)&(len(r.buf)-1)] = d
	r.n++
	r.bytes += d.Size()
}

// pop takes the oldest element; the ring must not be empty.
func (r *ring) pop() wire.Delivery {
	d := r.buf[r.head]
	r.buf[r.head] = wire.Delivery{} // let go of the payload
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	r.bytes -= d.Size()
	if r.n == 0 && len(r.buf) > maxKeptRing {
		*r = ring{}
	}
	return d
}

func (r *ring) grow() {
	bigger := make([]wire.Delivery, max(minRing, 2*len(r.buf)))
	for i := range r.n {
		bigger[i] = r.buf[(r.head+i)&(len(r.buf)-1)]
	}
	r.buf, r.head = bigger, 0
}
