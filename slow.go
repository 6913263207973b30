package bus

import (
	"context"
	"sync"
	"time"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/dispatch"
)

// While a subscription drops messages it is looked at after firstLook, and then each
// time after twice as long, up to longestLook.
const (
	firstLook   = time.Second
	longestLook = time.Minute
)

// slow reports the messages that a subscription drops: when that begins, from time
// to time while it goes on, and in the end, so that the last report counts them all.
// nats.go tells of the first one only, until another message finds room.
type slow struct {
	mu      sync.Mutex
	told    int           // messages of which was reported
	handled int64         // handler calls that had ended at the last look
	wait    time.Duration // until the next look
	timer   *time.Timer   // of that; nil while nothing is dropped
	over    bool          // the subscription has ended

	looking chan struct{} // closed when the look ends that is under way; nil while none is
	looker  dispatch.Goroutine
}

// dropping is called when messages begin to be dropped, and may be at other times.
func (s *Subscription) dropping() {
	w := &s.slow
	w.mu.Lock()
	if w.over || w.timer != nil {
		w.mu.Unlock()
		return
	}
	w.wait, w.handled = firstLook, s.core.Ended()
	w.timer = time.AfterFunc(w.wait, s.lookAgain)
	w.mu.Unlock()
	s.tellDropped()
}

// lookAgain is the timer's. The looks end when nothing was dropped since the last
// one and the handler goes on.
func (s *Subscription) lookAgain() {
	w := &s.slow
	w.mu.Lock()
	if w.over {
		w.mu.Unlock()
		return
	}
	w.looking, w.looker = make(chan struct{}), dispatch.Here()
	w.mu.Unlock()
	more := s.tellDropped()
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.looking)
	w.looking, w.looker = nil, 0
	handled := s.core.Ended()
	goesOn := handled > w.handled
	w.handled = handled
	switch {
	case w.over:
	case goesOn && !more && s.core.Dropped() == w.told:
		w.timer = nil
	default:
		w.wait = min(2*w.wait, longestLook)
		w.timer.Reset(w.wait)
	}
}

// end reports what was dropped since the last report. It waits for a look that is
// under way, unless that is the caller whom ctx notes, or ctx ends.
func (w *slow) end(ctx context.Context, s *Subscription) {
	w.mu.Lock()
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
	}
	looking, own := w.looking, w.looker.IsCaller(ctx)
	w.mu.Unlock()
	if looking != nil && !own {
		select {
		case <-looking:
		case <-ctx.Done():
		}
	}
	s.tellDropped()
}

// tellDropped reports messages of which was not reported yet, if there are any.
func (s *Subscription) tellDropped() bool {
	dropped := s.countDropped()
	w := &s.slow
	w.mu.Lock()
	more := dropped > w.told
	w.told = max(w.told, dropped)
	w.mu.Unlock()
	if more {
		s.bus.report(event.Event{Kind: event.SlowConsumer, Subject: s.Subject(), Err: &SlowConsumerError{Subject: s.Subject(), Dropped: dropped}})
	}
	return more
}

// countDropped tells the metrics how many messages were dropped since it last
// did, and returns how many in all.
func (s *Subscription) countDropped() int {
	total := s.core.Dropped()
	known := &s.receiver.counters.Dropped
	for before := known.Load(); int64(total) > before; before = known.Load() {
		if known.CompareAndSwap(before, int64(total)) {
			s.bus.core.Telemetry.Dropped(s.receiver.pattern, s.receiver.group, int64(total)-before)
			break
		}
	}
	return total
}
