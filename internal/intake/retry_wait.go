package intake

import (
	"container/heap"
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// A message that waits for its next attempt for longer than deferAfter is deferred, and
// so is what would be more than maxWaiting at once. Below that the server has less work
// with messages that wait here.
const (
	deferAfter = 30 * time.Second
	maxWaiting = 512
)

// retry has the handler try del again after a while: here, or deferred. A worker calls it.
func (d *Durable) retry(del wire.Delivery, after time.Duration) {
	if !d.order.mayDefer(del.Stored) || !d.mustDefer(after) || !d.deferRetry(context.Background(), del, time.Now().Add(after)) {
		d.again(del, after)
	}
}

// repeatAttempt has the handler called for the same attempt at del after a while. While
// draining del is returned; only what has failed before is deferred, so that its
// attempts are not forgotten.
func (d *Durable) repeatAttempt(del wire.Delivery, after time.Duration) {
	if del.Stored.Attempt > 1 || !d.isDraining() {
		d.retry(del, after)
		return
	}
	d.again(del, 0)
}

func (d *Durable) isDraining() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.draining
}

// mustDefer reports whether a message that is to wait so long is to be deferred.
func (d *Durable) mustDefer(after time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.draining || after >= deferAfter || d.waiting.len() >= maxWaiting
}

// deferRetry stores del until its time, and lets go of it. It returns false if it is
// still here.
func (d *Durable) deferRetry(ctx context.Context, del wire.Delivery, at time.Time) bool {
	if d.cfg.DeferRetry == nil || d.isDeleted() || d.cfg.DeferRetry(ctx, del, at) != nil {
		return false
	}
	d.settle(del, telemetry.OpAck, ackBody)
	return true
}

// again has del tried again here after a while, or returns it when draining.
func (d *Durable) again(del wire.Delivery, after time.Duration) {
	waits, kept := d.wait(del, after)
	switch {
	case waits:
		d.wakeMaintainer()
		d.pull()
	case !kept:
		d.handBack(context.Background(), dueNow([]wire.Delivery{del}))
	}
}

// wait has del wait for its next attempt, unless the intake is draining: then it is kept
// for those that are returned in the end, as long as that is not over.
func (d *Durable) wait(del wire.Delivery, after time.Duration) (waits, kept bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining {
		if !d.unfinishedGone {
			d.unfinished = append(d.unfinished, del)
		}
		return false, !d.unfinishedGone
	}
	d.pullers[del.Stored.Source].waiting++
	d.waiting.add(time.Now().Add(after), del)
	return true, true
}

// resumeDue has the messages run whose next attempt is due. The maintainer calls it.
func (d *Durable) resumeDue(now time.Time) {
	d.mu.Lock()
	ripe := d.waiting.ripe(now)
	for i := range ripe {
		d.pullers[ripe[i].Stored.Source].waiting--
	}
	d.mu.Unlock()
	for i := range ripe {
		d.order.resume(ripe[i])
	}
}

// removeWaiting returns all messages that wait for their next attempt.
func (d *Durable) removeWaiting() []due {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.waiting.all()
	for i := range all {
		d.pullers[all[i].d.Stored.Source].waiting--
	}
	return all
}

// retryWait holds messages that wait for their next attempt, the earliest first.
// The zero value is empty. Not safe for concurrent use.
type retryWait struct{ h dueHeap }

// due is a message that is due at a time.
type due struct {
	at time.Time
	d  wire.Delivery
}

// dueNow makes each message due at once.
func dueNow(ds []wire.Delivery) (all []due) {
	for _, del := range ds {
		all = append(all, due{time.Now(), del})
	}
	return all
}

func (w *retryWait) add(at time.Time, d wire.Delivery) { heap.Push(&w.h, due{at, d}) }

func (w *retryWait) len() int { return len(w.h) }

// hurry makes the message of a key due at now that waits for earlier ones to come back, if any.
func (w *retryWait) hurry(now time.Time, key string) bool {
	for i := range w.h {
		if one := w.h[i].d.Stored; one.Rechecks > 0 && one.Key == key && w.h[i].at.After(now) {
			w.h[i].at = now
			heap.Fix(&w.h, i)
			return true
		}
	}
	return false
}

// next is when the earliest message is due; ok is false when none waits.
func (w *retryWait) next() (at time.Time, ok bool) {
	if len(w.h) == 0 {
		return time.Time{}, false
	}
	return w.h[0].at, true
}

// ripe removes and returns the messages due at now.
func (w *retryWait) ripe(now time.Time) []wire.Delivery {
	var ds []wire.Delivery
	for len(w.h) > 0 && !w.h[0].at.After(now) {
		ds = append(ds, heap.Pop(&w.h).(due).d)
	}
	return ds
}

// all removes and returns every message, in no particular order.
func (w *retryWait) all() []due {
	all := w.h
	w.h = nil
	return all
}

// dueHeap is a heap of package container/heap.
type dueHeap []due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(due)) }
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = due{}
	*h = old[:len(old)-1]
	return last
}
