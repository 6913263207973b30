package middleware

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/omnibus-go/bus"
)

// Deduplicate drops messages that the handler has handled already: ones with the
// subject and the ID of a message that succeeded less than window ago, in this
// process. A dropped message counts as handled, so for bus.Consume it is
// acknowledged. Messages without ID pass; those of a stream always have one
// (Msg.ID), so a message that comes again because its acknowledgement was lost
// is dropped too. Publishers give IDs with bus.MsgID.
//
// Dropping never loses a message: one whose first copy failed is handled, and
// one that comes while its first copy is being handled waits for that outcome,
// until its context ends. The subject belongs to the identity so that events of
// several kinds may carry the same ID, as that of an order.
//
// At most maxEntries messages are remembered, about 250 bytes each; the oldest
// are forgotten first. Each subscription and consumer remembers by itself, also
// when given the same value: otherwise only one of two would see a message.
// Nothing survives the process; where that matters the handler has to know what
// it did. Responders have no use for it: whoever sent a request that is dropped
// gets no answer.
func Deduplicate(window time.Duration, maxEntries int) (bus.Middleware, error) {
	if window <= 0 {
		return nil, invalid("Deduplicate", "window", fmt.Sprintf("must be more than zero, not %v", window))
	}
	if maxEntries < 1 {
		return nil, invalid("Deduplicate", "maxEntries", fmt.Sprintf("must be at least 1, not %d", maxEntries))
	}
	return func(next bus.RawHandler) bus.RawHandler {
		s := &recentIDs{window: window, maxEntries: maxEntries, running: make(map[identity]chan struct{}), handled: make(map[identity]struct{})}
		return func(ctx context.Context, m *bus.RawMsg) error {
			if m.ID == "" {
				return next(ctx, m)
			}
			return s.once(ctx, m, next)
		}
	}, nil
}

// identity is what makes two messages the same.
type identity struct{ subject, id string }

// seen is what one handler has done and is doing. A message is in running, then,
// if it succeeded, in handled and order until it is forgotten.
type recentIDs struct {
	window     time.Duration
	maxEntries int

	mu      sync.Mutex
	running map[identity]chan struct{} // closed when the call has ended
	handled map[identity]struct{}
	order   list.List // of past, the oldest first
}

type handledID struct {
	identity
	at time.Time
}

// once calls next unless m was handled.
func (s *recentIDs) once(ctx context.Context, m *bus.RawMsg, next bus.RawHandler) error {
	id := identity{m.Subject, m.ID}
	for {
		first, handled := s.begin(id)
		if handled {
			return nil
		}
		if first == nil {
			return s.run(ctx, m, id, next)
		}
		select {
		case <-first:
		case <-ctx.Done():
			return waitError(ctx, "an earlier copy of it in Deduplicate")
		}
	}
}

// begin claims id for the caller, unless it was handled or is being handled;
// then first is closed when that has ended.
func (s *recentIDs) begin(id identity) (first <-chan struct{}, handled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(time.Now())
	if _, ok := s.handled[id]; ok {
		return nil, true
	}
	if c, ok := s.running[id]; ok {
		return c, false
	}
	s.running[id] = make(chan struct{})
	return nil, false
}

func (s *recentIDs) run(ctx context.Context, m *bus.RawMsg, id identity, next bus.RawHandler) error {
	succeeded := false
	defer func() { s.end(id, succeeded) }() // also when next panics
	err := next(ctx, m)
	succeeded = err == nil
	return err
}

func (s *recentIDs) end(id identity, succeeded bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.running[id])
	delete(s.running, id)
	if !succeeded {
		return
	}
	now := time.Now()
	s.handled[id] = struct{}{}
	s.order.PushBack(handledID{id, now})
	s.forgetLocked(now)
}

// forgetLocked removes what is too old or too much.
func (s *recentIDs) forgetLocked(now time.Time) {
	for e := s.order.Front(); e != nil; e = s.order.Front() {
		p := e.Value.(handledID)
		if s.order.Len() <= s.maxEntries && now.Sub(p.at) < s.window {
			return
		}
		s.order.Remove(e)
		delete(s.handled, p.identity)
	}
}
