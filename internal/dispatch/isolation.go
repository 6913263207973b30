package dispatch

import (
	"slices"
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// minHold is how long other messages are held back at first for one that is to run alone.
const minHold = 10 * time.Second

// Isolation lets some messages run with nothing beside them: each of them is isolated. While
// an isolated message runs, every other one is held back. The zero value is ready. Safe for
// concurrent use; workers call it around each handler call.
//
// While an isolated message waits for what runs to end, others are held back for 10 s. If
// something still runs then, they are let in until all that ran at that moment has ended.
// Then they are held back again, for half as long as the isolated message has waited, and so
// on. So a slow handler holds up nobody for long, and under any load the isolated message
// begins after a few times what the slowest handler takes.
type Isolation struct {
	mu      sync.Mutex
	stopped bool
	running int
	alone   bool            // the one that runs is isolated
	called  *wire.Stored    // isolated, runs next; it is on its way
	first   []wire.Delivery // held back, isolated
	others  []wire.Delivery // held back

	// While first waits for what runs.
	since time.Time                 // it does
	until time.Time                 // others are held back, or were
	after map[*wire.Stored]struct{} // those of what runs that were let in after that
}

// Enter returns true when d may run now; Leave must follow. Otherwise it is held back
// until Leave, Overdue or Stop returns it.
func (s *Isolation) Enter(d wire.Delivery, alone bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	idle := s.running == 0 && s.called == nil
	switch {
	case s.stopped:
	case s.called == d.Stored, alone && idle:
		s.called, s.alone = nil, true
	case alone:
		s.first = append(s.first, d)
		if len(s.first) == 1 {
			s.since = time.Now()
			s.holdLocked(s.since)
		}
		return false
	case s.alone || s.called != nil || len(s.first) > 0 && time.Now().Before(s.until):
		s.others = append(s.others, d)
		return false
	case len(s.first) > 0:
		s.after[d.Stored] = struct{}{}
	}
	s.running++
	return true
}

// holdLocked begins to hold others back for the first message that is to run alone.
func (s *Isolation) holdLocked(now time.Time) {
	s.until = now.Add(max(minHold, now.Sub(s.since)/2))
	s.after = make(map[*wire.Stored]struct{})
}

// Leave ends the run of d. It returns those that come next; they must enter again.
func (s *Isolation) Leave(d wire.Delivery) (next []wire.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	s.alone = false
	delete(s.after, d.Stored)
	switch {
	case s.running == 0 && len(s.first) > 0:
		next = s.first[:1:1]
		s.first, s.called = s.first[1:], next[0].Stored
	case s.running == 0:
		next, s.others = s.others, nil
	case len(s.first) > 0 && len(s.after) == s.running: // what ran when they were let in has ended
		s.holdLocked(time.Now())
	}
	return next
}

// Overdue returns those that have been held back long enough for one that waits. They
// must enter again.
func (s *Isolation) Overdue(now time.Time) (next []wire.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alone || s.called != nil || len(s.first) == 0 || now.Before(s.until) {
		return nil
	}
	next, s.others = s.others, nil
	return next
}

// Stop returns what is held back. From now on nothing is.
func (s *Isolation) Stop() []wire.Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	all := slices.Concat(s.first, s.others)
	s.first, s.others = nil, nil
	return all
}

// Kept is the number of messages that are held back.
func (s *Isolation) Kept() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.first) + len(s.others)
}
