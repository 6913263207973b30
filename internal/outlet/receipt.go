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
type Receipt struct {
	Message  Message
	Deadline time.Time // until when it is sent again, or its answer awaited

	// the window's, under its lock
	number     uint64 // in the order of Add, and the last token of its reply subject
	prev, next *Receipt
	tries      tries
	sent       bool      // and not answered yet
	held       bool      // it waits for the connection, and others behind it
	again      time.Time // when to send it the next time; zero: not by itself
	span       telemetry.Span

	mu    sync.Mutex
	done  chan struct{} // made by whoever asks for it first
	ended bool
	ack   Ack
	err   error
}

// Done returns a channel that is closed when the outcome is there.
func (r *Receipt) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(chan struct{})
		if r.ended {
			close(r.done)
		}
	}
	return r.done
}

// Wait waits for the outcome. ok is false where ctx ended before it was there.
func (r *Receipt) Wait(ctx context.Context) (ack Ack, ok bool, err error) {
	if r.isOver() {
		return r.ack, true, r.err
	}
	select {
	case <-r.Done():
	case <-ctx.Done():
		if !r.isOver() {
			return Ack{}, false, ctx.Err()
		}
	}
	return r.ack, true, r.err
}

func (r *Receipt) isOver() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// end sets the outcome.
func (r *Receipt) end(ack Ack, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ack, r.err, r.ended = ack, err, true
	if r.done != nil {
		close(r.done)
	}
}

// receipts is a list in the order of Add.
type receipts struct{ first, last *Receipt }

func (l *receipts) push(r *Receipt) {
	r.prev = l.last
	if l.last == nil {
		l.first = r
	} else {
		l.last.next = r
	}
	l.last = r
}

func (l *receipts) remove(r *Receipt) {
	if r.prev == nil {
		l.first = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		l.last = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
}
