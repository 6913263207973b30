package intake

import (
	"container/heap"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// waiting holds messages that wait for their next attempt, the earliest first.
// The zero value is empty. Not safe for concurrent use.
type waiting struct{ h dueHeap }

type due struct {
	at time.Time
	d  wire.Delivery
}

func (w *waiting) add(at time.Time, d wire.Delivery) { heap.Push(&w.h, due{at, d}) }

func (w *waiting) len() int { return len(w.h) }

// next is when the earliest message is due; ok is false when none waits.
func (w *waiting) next() (at time.Time, ok bool) {
	if len(w.h) == 0 {
		return time.Time{}, false
	}
	return w.h[0].at, true
}

// ripe removes and returns the messages due at now.
func (w *waiting) ripe(now time.Time) []wire.Delivery {
	var ds []wire.Delivery
	for len(w.h) > 0 && !w.h[0].at.After(now) {
		ds = append(ds, heap.Pop(&w.h).(due).d)
	}
	return ds
}

// take removes and returns a message; ok is false when it does not wait.
func (w *waiting) take(s *wire.Stored) (d wire.Delivery, ok bool) {
	for i := range w.h {
		if w.h[i].d.Stored == s {
			return heap.Remove(&w.h, i).(due).d, true
		}
	}
	return wire.Delivery{}, false
}

// all removes and returns every message, in no particular order.
func (w *waiting) all() []due {
	all := w.h
	w.h = nil
	return all
}

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
