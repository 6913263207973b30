package outlet

import (
	"context"
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/telemetry"
)

// Future is a message of a Window and its outcome, which comes later. The caller makes it,
// sets the first two fields, and passes it to Window.Add once. It may be a field of another
// struct, which saves an allocation.
type Future struct {
	Message  Message   // without payload and headers once the outcome is known
	Deadline time.Time // until then it is sent again and its answer awaited

	// The lock of the window guards the next fields.
	number     uint64 // in the order of Add; also the last token of the reply subject
	prev, next *Future
	attempts   attempts
	unanswered bool      // sent, and not answered yet
	held       bool      // waits for the connection, and later messages behind it
	waits      bool      // waits for its turn
	turn       *turn     // of its stream
	remembered bool      // the stream was asked: it may be sent again, see mayBeForgotten
	nextSend   time.Time // when to send it again; zero: not planned
	span       telemetry.Span

	// mu guards the outcome.
	mu    sync.Mutex
	done  chan struct{} // made by the first call of Done
	ended bool
	ack   Ack
	err   error
}

// Done returns a channel that is closed when the outcome is known.
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

// Wait waits for the outcome. ok is false if ctx ended before.
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

// hasEnded reports whether the outcome is known.
func (f *Future) hasEnded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

// end sets the outcome. The window calls it once.
func (f *Future) end(ack Ack, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ack, f.err, f.ended = ack, err, true
	if f.done != nil {
		close(f.done)
	}
}

// futureList is a list of futures in the order of Add.
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
