package ownership

import (
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// RunBatch has messages handled at once and sets their outcomes, like Run. A worker of this process
// handles them.
func (o *Owner) RunBatch(ds []wire.Delivery, outcomes []settle.Outcome) {
	o.dispatcher.runBatch(ds, outcomes)
}

// runBatch has messages handled at once by a free worker of this process, and sets their outcomes,
// as run does.
func (d *dispatcher) runBatch(ds []wire.Delivery, outcomes []settle.Outcome) {
	for i := range outcomes {
		outcomes[i] = settle.Outcome{Returned: true}
	}
	keys := make([]string, len(ds))
	for i := range ds {
		keys[i] = keyHash(ds[i].Stored.Key)
	}
	to := d.waitForWorker(&waiter{keys: keys, here: true})
	if to == nil {
		return
	}
	defer d.release(to)
	if ids, ok := d.number(keys...); ok {
		d.workers.handleBatch(ds, ids, outcomes)
	}
}

// number makes the identifiers of new assignments. ok is false if none may be made
// any more: see mayAssignLocked.
func (d *dispatcher) number(keys ...string) (ids []assignmentID, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids = make([]assignmentID, len(keys))
	for i, key := range keys {
		d.lastNumber++
		ids[i] = assignmentID{Epoch: d.epoch, Number: d.lastNumber, Key: key}
	}
	return ids, d.mayAssignLocked()
}

// handleBatch handles messages at once that the owner in this process assigned. It runs on a
// goroutine of the intake.
func (w *workers) handleBatch(ds []wire.Delivery, ids []assignmentID, outcomes []settle.Outcome) {
	w.mu.Lock()
	for _, id := range ids {
		w.running[id] = true
	}
	w.mu.Unlock()
	n := int64(len(ds))
	last := w.begun.Add(n)
	for i := range ds {
		ds[i].Number = last - n + int64(i) + 1
	}
	defer func() {
		w.ended.Add(n)
		w.mu.Lock()
		for _, id := range ids {
			delete(w.running, id)
		}
		w.mu.Unlock()
		w.member.onWorkerFree()
	}()
	w.member.cfg.RunBatch(ds, outcomes)
}
