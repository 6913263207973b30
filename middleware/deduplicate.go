package middleware

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/internal/access"
)

// Deduplicate returns a middleware that drops a message that the handler has already handled. Two
// messages are the same if they have the same subject and the same ID (Msg.ID). A message is
// dropped if the same message succeeded in this process less than window ago. A dropped message
// counts as handled, so bus.Consume acknowledges it. A message without an ID is not dropped.
// Publishers set IDs with bus.MsgID. A message of a stream always has an ID, so a message that
// is redelivered because its acknowledgement was lost is dropped too.
//
// No message is lost. If the first copy failed, the next copy is handled. A copy that arrives
// while another one is being handled waits for that outcome, until its context ends. In a batch
// (bus.ConsumeBatch) it does not wait but is redelivered after a second (bus.Postpone), because
// the other copy may be in the same batch. Messages of different subjects may have the same ID,
// for example the ID of an order.
//
// At most maxEntries messages are remembered, with about 250 bytes each. The oldest ones are
// forgotten first. Each subscription and each consumer remembers its own messages, even if they
// share the middleware value. The memory does not survive the process. If that matters, the
// handler itself must record what it has done. Do not use it for responders: a dropped request
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

// identity identifies a message.
type identity struct{ subject, id string }

// recentIDs are the messages of one handler. A message is in running during the call. If it
// succeeds, it is in handled and order until it is forgotten. Safe for concurrent use.
type recentIDs struct {
	window     time.Duration
	maxEntries int

	mu      sync.Mutex
	running map[identity]chan struct{} // closed when the call has ended
	handled map[identity]struct{}
	order   list.List // of handledID, the oldest first
}

// handledID is a message and when it was handled.
type handledID struct {
	identity
	at time.Time
}

// once calls next if m was not handled yet. If a copy of m is running it waits for the outcome.
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
		if access.InBatch(ctx) {
			return bus.Postpone(copyInBatch, errCopyInBatch)
		}
		select {
		case <-first:
		case <-ctx.Done():
			return waitError(ctx, "an earlier copy of it in Deduplicate")
		}
	}
}

// copyInBatch is how long a copy in a batch is postponed while another copy is being handled.
const copyInBatch = time.Second

var errCopyInBatch = errors.New("bus: an earlier copy of this message is being handled; Deduplicate looks again later")

// begin marks id as running for the caller. It does not if id was handled, or if id is running;
// then first is closed when that call ends.
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

// run calls next and records the outcome.
func (s *recentIDs) run(ctx context.Context, m *bus.RawMsg, id identity, next bus.RawHandler) error {
	succeeded := false
	defer func() { s.end(id, succeeded) }() // also when next panics
	err := next(ctx, m)
	succeeded = err == nil
	return err
}

// end ends the running call of id.
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

// forgetLocked removes messages that are older than window, and the oldest above maxEntries.
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
