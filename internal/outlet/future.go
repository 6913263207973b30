package outlet

import (
	"context"
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/telemetry"
)

// Receipt is a message of a Window and what becomes of it. Its user makes it, as a
// part of something else where that saves an allocation, sets the first two fields,
// and gives it to Window.Add once.
type Future struct {
	Message  Message
	Deadline time.Time // until when it is sent again, or its answer awaited

	// the window's, under its lock
	number     uint64 // in the order of Add, and the last token of its reply subject
	prev, next *Future
	attempts   attempts
	unanswered bool      // and not answered yet
	held       bool      // it waits for the connection, and others behind it
	nextSend   time.Time // when to send it the next time; zero: not by itself
	span       telemetry.Span

	mu    sync.Mutex
	done  chan struct{} // made by whoever asks for it first
	ended bool
	ack   Ack
	err   error
}

// Done returns a channel that is closed when the outcome is there.
func (f *Future) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done == nil {
		f.done = make(chan struct{})
		if f.ended {
			close(f.done)
		}
	}
	return f.done
}

// Wait waits for the outcome. ok is false where ctx ended before it was there.
func (f *Future) Wait(ctx context.Context) (ack Ack, ok bool, err error) {
	if f.hasEnded() {
		return f.ack, true, f.err
	}
	select {
	case <-f.Done():
	case <-ctx.Done():
		if !f.hasEnded() {
			return Ack{}, false, ctx.Err()
		}
	}
	return f.ack, true, f.err
}

func (f *Future) hasEnded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

// end sets the outcome.
func (f *Future) end(ack Ack, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ack, f.err, f.ended = ack, err, true
	if f.done != nil {
		close(f.done)
	}
}

// receipts is a list in the order of Add.
type futureList struct{ first, last *Future }

func (l *futureList) push(f *Future) {
	f.prev = l.last
	if l.last == nil {
		l.first = f
	} else {
		l.last.next = f
	}
	l.last = f
}

func (l *futureList) remove(f *Future) {
	if f.prev == nil {
		l.first = f.next
	} else {
		f.prev.next = f.next
	}
	if f.next == nil {
		l.last = f.prev
	} else {
		f.next.prev = f.prev
	}
	f.prev, f.next = nil, nil
}
