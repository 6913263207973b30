package outlet

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrFull is returned by Async.Add when the buffer is full and it must not wait.
var ErrFull = errors.New("outlet: the buffer is full")

const (
	batchSize  = 100
	batchDelay = 100 * time.Millisecond
	flushLimit = 5 * time.Second // of one flush; later ones confirm what it did not
)

// Async is a bounded buffer of messages and the goroutine that sends them.
//
// States: open → draining → ended. The goroutine starts with the first message
// and ends with Drain. It sends in batches and flushes the connection after each
// one, so that it knows what the server has. A batch ends when no message waits,
// at 100 messages, or after 100 ms, whichever comes first.
type Async struct {
	out    *Outlet
	wait   bool // a full buffer makes Add wait
	failed func(*Message, error)
	fill   chan *Message

	mu      sync.RWMutex // Add reads, Drain writes: no Add is under way once closed
	closed  bool
	closing chan struct{} // unblocks an Add that waits for room
	start   sync.Once
	stop    sync.Once
	done    chan struct{}

	flushing  context.Context // ends when Drain cannot wait for a flush
	stopFlush context.CancelFunc

	unsent      int // refused by the connection; the goroutine's until done
	unconfirmed int // handed to the connection since the last flush; likewise
}

// NewAsync returns a buffer of size messages. failed is told of each message
// that could not be sent.
func NewAsync(o *Outlet, size int, wait bool, failed func(*Message, error)) *Async {
	a := &Async{out: o, wait: wait, failed: failed, fill: make(chan *Message, size),
		closing: make(chan struct{}), done: make(chan struct{})}
	a.flushing, a.stopFlush = context.WithCancel(context.Background())
	return a
}

// ErrEnded is returned by Add after Drain.
var ErrEnded = errors.New("outlet: the asynchronous publisher has ended")

// Add puts m into the buffer. When that is full it waits until ctx ends, or
// returns ErrFull at once, as NewAsync was told.
func (a *Async) Add(ctx context.Context, m *Message) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		return ErrEnded
	}
	a.start.Do(func() { go a.run() })
	select {
	case a.fill <- m:
		return nil
	default:
	}
	if !a.wait {
		return ErrFull
	}
	select {
	case a.fill <- m:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-a.closing:
		return ErrEnded
	}
}

// Pending is the number of messages in the buffer.
func (a *Async) Pending() int { return len(a.fill) }

func (a *Async) run() {
	defer close(a.done)
	for first := range a.fill {
		a.batch(first)
		if a.out.link.Flush(a.flushing, flushLimit) == nil {
			a.unconfirmed = 0
		}
	}
}

// batch sends first and those that wait behind it.
func (a *Async) batch(first *Message) {
	began := time.Now()
	a.send(first)
	for range batchSize - 1 {
		select {
		case m, ok := <-a.fill:
			if !ok {
				return
			}
			a.send(m)
		default:
			return
		}
		if time.Since(began) >= batchDelay {
			return
		}
	}
}

func (a *Async) send(m *Message) {
	if err := a.out.Send(context.Background(), m); err != nil {
		a.unsent++
		a.failed(m, err)
		return
	}
	a.unconfirmed++
}

// Drain refuses new messages and sends those in the buffer. It returns how many
// of all accepted messages did not reach the server for certain; when ctx ends
// first, those left in the buffer are among them. It may be called again.
func (a *Async) Drain(ctx context.Context) (unsent int) {
	a.stop.Do(func() {
		close(a.closing)
		a.mu.Lock()
		a.closed = true
		a.mu.Unlock()
		a.start.Do(func() { close(a.done) })
		close(a.fill)
	})
	select {
	case <-a.done:
		return a.unsent + a.unconfirmed
	case <-ctx.Done():
		return a.abandon()
	}
}

// abandon empties the buffer past the goroutine and ends its last flush.
func (a *Async) abandon() int {
	left := 0
	for range a.fill {
		left++
	}
	a.stopFlush()
	<-a.done
	return a.unsent + a.unconfirmed + left
}
