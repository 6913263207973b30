package ownership

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// workers handle the messages that are assigned to this process. Those of an owner
// elsewhere run on the goroutines of the queue; those of an owner here run on the
// goroutines of its intake. They know all that runs here, of whichever owner. mu guards
// the state.
type workers struct {
	member *Member
	queue  *dispatch.Queue // of what an owner elsewhere assigned
	begun  atomic.Int64    // handler calls
	ended  atomic.Int64

	mu       sync.Mutex
	running  map[assignmentID]bool         // those that are here; whether the handler runs
	queued   map[*wire.Stored]assignmentID // of the deliveries in the queue
	epoch    uint64                        // of the owner that they work for
	until    time.Time                     // when that owner may take this member for dead
	refusing bool                          // they begin nothing more from elsewhere
	quiesced bool                          // likewise, for now
}

func newWorkers(m *Member) *workers {
	w := &workers{member: m, running: make(map[assignmentID]bool), queued: make(map[*wire.Stored]assignmentID)}
	w.queue = dispatch.New(m.cfg.Workers, w.handleRemote)
	return w
}

// onAssignment is nats.go's callback for a message that an owner assigned to this process.
func (w *workers) onAssignment(msg *nats.Msg) {
	d, id, err := decodeAssignment(msg)
	if err == nil {
		err = w.member.cfg.Accepts(&d)
	}
	if err != nil {
		w.member.reportOdd("a message for a member", err)
		return
	}
	w.mu.Lock()
	_, twice := w.running[id]
	if !twice {
		w.running[id] = false
	}
	w.queued[d.Stored] = id
	w.mu.Unlock()
	if twice || !w.queue.Push(d) {
		w.forget(d.Stored, id, !twice)
	}
}

// handleRemote handles one message of an owner elsewhere and reports the outcome. It runs
// on a goroutine of the queue. A handler that ends the goroutine has its outcome reported
// too.
func (w *workers) handleRemote(d wire.Delivery) {
	w.mu.Lock()
	id := w.queued[d.Stored]
	begins := !w.refusing && !w.quiesced && !w.member.isStopping() && id.Epoch == w.epoch && time.Now().Before(w.until) && w.isFreeLocked(id)
	if begins {
		w.running[id] = true
	}
	w.mu.Unlock()
	o, returned := settle.Outcome{Returned: true}, !begins
	defer func() { w.finishRemote(d, id, o, begins) }()
	defer func() {
		if !returned {
			o = w.member.cfg.Exited(d)
		}
	}()
	if begins {
		o = w.call(d)
		returned = true
	}
}

// isFreeLocked reports whether a message may begin: no other one of its key runs here, and no
// later assignment of the key is here. Both happen after this process was suspended: the owner
// did not count on the earlier assignment any more, and has assigned the message again.
func (w *workers) isFreeLocked(id assignmentID) bool {
	if id.Key == noKey {
		return true
	}
	for other, runs := range w.running {
		if other.Key == id.Key && other != id && (runs || other.Epoch == id.Epoch && other.Number > id.Number) {
			return false
		}
	}
	return true
}

// finishRemote reports the outcome of an assignment to the owner. begun is false if the
// handler was not called: then the owner assigns no more before a heartbeat.
func (w *workers) finishRemote(d wire.Delivery, id assignmentID, o settle.Outcome, begun bool) {
	m := w.member
	w.mu.Lock()
	w.running[id] = false // before the owner knows: it may assign the next message of the key at once
	w.mu.Unlock()
	a, err := m.reportOutcome(id, encodeOutcome(o, m.cfg.Cause))
	w.forget(d.Stored, id, true)
	switch {
	case !begun:
		m.wake.signal()
	case err != nil:
		m.refuse(&d, err)
	case a.Retrying:
		m.cfg.Retrying(d, o.Err)
	}
}

// handleLocal handles a message that the owner in this process assigned. It runs on a
// goroutine of the intake.
func (w *workers) handleLocal(d wire.Delivery, id assignmentID) settle.Outcome {
	w.mu.Lock()
	w.running[id] = true
	w.mu.Unlock()
	defer w.forget(nil, id, true)
	return w.call(d)
}

func (w *workers) call(d wire.Delivery) settle.Outcome {
	d.Number = w.begun.Add(1)
	defer w.ended.Add(1)
	return w.member.cfg.Run(d)
}

// forget ends an assignment. ended is false if the same one is still running.
func (w *workers) forget(stored *wire.Stored, id assignmentID, ended bool) {
	w.mu.Lock()
	delete(w.queued, stored)
	if ended {
		delete(w.running, id)
	}
	w.mu.Unlock()
	w.member.onWorkerFree()
}

// follow has the workers work for the owner of an epoch, until a time.
func (w *workers) follow(epoch uint64, until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.epoch, w.until = epoch, until
}

// ownerEpoch is the epoch of the owner that they work for.
func (w *workers) ownerEpoch() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.epoch
}

// takenForDead reports whether the owner, if there is one, must have taken this member
// for dead.
func (w *workers) takenForDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.until) > w.member.currentTTL()-w.member.memberPeriod()
}

// assignments returns those that run or are queued here.
func (w *workers) assignments() []assignmentID {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]assignmentID, 0, len(w.running))
	for id := range w.running {
		all = append(all, id)
	}
	return all
}

// runsKeyOfOther reports whether a message with a key runs here that the owner of
// another epoch assigned.
func (w *workers) runsKeyOfOther(key string, epoch uint64) bool {
	return slices.ContainsFunc(w.assignments(), func(id assignmentID) bool { return id.Key == key && id.Epoch != epoch })
}

// refuseAll has the workers begin nothing more from elsewhere.
func (w *workers) refuseAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refusing = true
}

// setQuiesced says whether the workers begin nothing from elsewhere for now.
func (w *workers) setQuiesced(quiesced bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quiesced = quiesced
}

// wait waits until nothing from elsewhere runs, or ctx ends.
func (w *workers) wait(ctx context.Context) error { return w.queue.Wait(ctx) }
