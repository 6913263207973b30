package dispatch

import (
	"slices"
	"sync"

	"github.com/omnibus-go/bus/internal/wire"
)

// Solo lets some messages run with nothing beside them. While one of those runs, or
// waits for the others to end, what else comes is kept. The zero value is ready. Safe
// for concurrent use.
type Solo struct {
	mu      sync.Mutex
	stopped bool
	running int
	alone   bool            // the one that runs is alone
	called  *wire.Stored    // runs alone next; it is on its way
	first   []wire.Delivery // kept, to run alone
	others  []wire.Delivery // kept
}

// Enter returns true when d may run now; Leave must follow. Otherwise it is kept until
// Leave or Stop returns it.
func (s *Solo) Enter(d wire.Delivery, alone bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	idle := s.running == 0 && s.called == nil
	switch {
	case s.stopped:
	case s.called == d.Stored, alone && idle:
		s.called, s.alone = nil, true
	case alone:
		s.first = append(s.first, d)
		return false
	case s.alone || s.called != nil || len(s.first) > 0:
		s.others = append(s.others, d)
		return false
	}
	s.running++
	return true
}

// Leave ends the run of a message. It returns those that come next; they must enter
// again.
func (s *Solo) Leave() (next []wire.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	s.alone = false
	switch {
	case s.running > 0:
	case len(s.first) > 0:
		next = s.first[:1:1]
		s.first, s.called = s.first[1:], next[0].Stored
	default:
		next, s.others = s.others, nil
	}
	return next
}

// Stop returns what is kept. From now on nothing is.
func (s *Solo) Stop() []wire.Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	all := slices.Concat(s.first, s.others)
	s.first, s.others = nil, nil
	return all
}

// Kept is the number of messages that are kept.
func (s *Solo) Kept() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.first) + len(s.others)
}
