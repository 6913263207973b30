package outlet

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrFull is returned by Add when the buffer is full and the caller does not
// want to wait.
var ErrFull = errors.New("the buffer is full")

// ErrEnded is returned by Add once Drain has begun.
var ErrEnded = errors.New("the asynchronous publisher has ended")

const (
	batchSize  = 100
	batchDelay = 100 * time.Millisecond
	flushLimit = 5 * time.Second // of one flush; later ones confirm what it did not
)

// AsyncConfig says how much an Async holds and whom it tells what it could not
// send. The functions are called one at a time, on a goroutine that nothing else
// waits for but Drain.
type AsyncConfig struct {
	Size   int                       // messages there is room for
	Wait   bool                      // a full buffer makes Add wait
	Failed func(m *Message, e error) // m was accepted and not handed to the connection
	Lost   func(messages int)        // they were, and the connection was lost before the server confirmed
}

// Async sends messages in the background, in order. It hands them to the
// connection and asks for a confirmation when the buffer is empty, after 100
// messages or after 100 ms, unless the answer to an earlier question is still on
// its way: then when that is there. A confirmation is about all messages that were
// handed over before it was asked for. So a long way to the server does not slow it
// down, as long as there are no more messages unconfirmed than the buffer has room
// for, or 100.
//
// Goroutines: run, started by the first Add; one for each question; and the
// teller, while there is something to tell. Drain ends them all and waits for
// them. Safe for concurrent use.
type Async struct {
	out    *Outlet
	cfg    AsyncConfig
	teller teller

	mu      sync.RWMutex // Add and Flush read, Drain writes: none of them is under way once closed
	closed  bool
	closing chan struct{} // unblocks an Add that waits for room
	start   sync.Once
	fill    chan *entry // made by start
	started atomic.Bool // fill is there
	stop    sync.Once
	done    chan struct{}

	accepted  atomic.Int64 // messages
	confirmed atomic.Int64 // of those

	flushing  context.Context // ends when Drain cannot wait for a flush
	stopFlush context.CancelFunc

	ledger ledger // run's
}

// entry is a message in the buffer, or a mark of Flush.
type entry struct {
	message *Message
	ctx     context.Context // of the publisher, for the trace it belongs to
	reached chan<- struct{} // of a mark: closed when all before it was sent
}

// NewAsync returns an Async that sends through o.
func NewAsync(o *Outlet, c AsyncConfig) *Async {
	a := &Async{out: o, cfg: c, closing: make(chan struct{}), done: make(chan struct{})}
	a.flushing, a.stopFlush = context.WithCancel(context.Background())
	return a
}

func (a *Async) begin() {
	a.fill = make(chan *entry, a.cfg.Size)
	a.started.Store(true)
	go a.run()
}

// Add puts m into the buffer. It returns ErrFull when there is no room, ErrEnded
// after Drain, and the error of ctx when that ends while it waits for room.
func (a *Async) Add(ctx context.Context, m *Message) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	err := a.put(ctx, m)
	if err != nil {
		a.out.counters.PublishFailed.Add(1)
	}
	return err
}

func (a *Async) put(ctx context.Context, m *Message) error {
	if a.closed {
		return ErrEnded
	}
	a.start.Do(a.begin)
	e := &entry{message: m, ctx: context.Background()}
	if a.out.tel != nil {
		e.ctx = context.WithoutCancel(ctx)
	}
	a.accepted.Add(1) // before it can be confirmed
	select {
	case a.fill <- e:
		return nil
	default:
	}
	err := ErrFull
	if a.cfg.Wait {
		err = a.add(ctx, e)
	}
	if err != nil {
		a.accepted.Add(-1)
	}
	return err
}

// add waits for room.
func (a *Async) add(ctx context.Context, e *entry) error {
	select {
	case a.fill <- e:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-a.closing:
		return ErrEnded
	}
}

// Pending returns how many messages are in the buffer.
func (a *Async) Pending() int {
	if !a.started.Load() {
		return 0
	}
	return len(a.fill)
}

// Flush waits until everything added before was handed to the connection. It
// returns the error of ctx when that ends first, and ErrEnded once Drain has begun.
func (a *Async) Flush(ctx context.Context) error {
	reached := make(chan struct{})
	if err := a.mark(ctx, reached); err != nil {
		return err
	}
	select {
	case <-reached:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-a.done:
	}
	select {
	case <-reached:
		return nil
	default:
		return ErrEnded
	}
}

// mark puts a mark into the buffer; where nothing can be before it, it is
// reached at once.
func (a *Async) mark(ctx context.Context, reached chan<- struct{}) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		return ErrEnded
	}
	if !a.started.Load() {
		close(reached)
		return nil
	}
	return a.add(ctx, &entry{reached: reached})
}

func (a *Async) run() {
	defer close(a.done)
	var forget func()
	a.ledger, forget = newLedger(a.out.link)
	defer forget()
	for {
		fill, closing := a.fill, (<-chan struct{})(nil)
		if a.room() == 0 {
			fill, closing = nil, a.closing
		}
		select {
		case first, ok := <-fill:
			if !ok {
				a.confirmAll()
				return
			}
			a.batch(first)
			a.ask()
		case <-closing:
		case s := <-a.ledger.states:
			a.note(s)
			a.ask() // what was handed over while there was no connection
		case err := <-a.ledger.answer:
			a.answered(err)
			a.ask()
		}
	}
}

// room is how many messages may be handed over without a confirmation; at the end
// there is no use in waiting for one.
func (a *Async) room() int {
	select {
	case <-a.closing:
		return batchSize
	default:
		return max(max(a.cfg.Size, batchSize)-a.ledger.unsettled(), 0)
	}
}

// batch sends first and what else is there, up to the limits of a batch.
func (a *Async) batch(first *entry) {
	began := time.Now()
	most := min(a.room(), batchSize)
	a.send(first)
	for range most - 1 {
		select {
		case e, ok := <-a.fill:
			if !ok {
				return
			}
			a.send(e)
		default:
			return
		}
		if time.Since(began) >= batchDelay {
			return
		}
	}
}

func (a *Async) send(e *entry) {
	if e.reached != nil {
		close(e.reached)
		return
	}
	a.look()
	if err := a.out.Send(e.ctx, e.message); err != nil {
		a.teller.tell(func() { a.cfg.Failed(e.message, err) }, a.cfg.Lost)
		return
	}
	a.ledger.handed++
}

// look takes note of what became of the connection.
func (a *Async) look() {
	for {
		select {
		case s := <-a.ledger.states:
			a.note(s)
		default:
			return
		}
	}
}

func (a *Async) note(s nats.Status) {
	if lost := a.ledger.note(s); lost > 0 {
		a.teller.lost(lost, a.cfg.Lost)
	}
}

// ask has the server confirm what was handed over since it last did, unless it is
// being asked, or cannot be.
func (a *Async) ask() {
	l := &a.ledger
	if l.asking || !l.connected || l.unsettled() == 0 {
		return
	}
	a.flush()
}

func (a *Async) flush() {
	l := &a.ledger
	l.asking, l.asked = true, l.handed
	go func() { l.answer <- a.out.link.Flush(a.flushing, flushLimit) }()
}

// answered takes the result of a flush.
func (a *Async) answered(err error) {
	a.look() // whether the connection was lost before the answer came
	a.ledger.asking = false
	if err == nil {
		a.confirmed.Add(a.ledger.confirm())
	}
}

// confirmAll asks until everything is confirmed or lost, or the server does not
// answer.
func (a *Async) confirmAll() {
	l := &a.ledger
	for a.look(); l.asking || l.unsettled() > 0; {
		if !l.asking {
			a.flush() // without a connection, too: it may come back in time
		}
		err := <-l.answer
		a.answered(err)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, nats.ErrConnectionClosed) {
			return
		}
	}
}

// Drain accepts nothing more, sends what is in the buffer until ctx ends, and
// ends the goroutines. It returns how many accepted messages did not reach the
// server for certain: left in the buffer, refused, or not confirmed. It may be
// called again. When ctx ends it does not wait: Done tells when run has ended,
// which an unresponsive peer may hold up until the link is aborted. It does not
// wait for the teller if that is the caller whom ctx notes.
func (a *Async) Drain(ctx context.Context) (unsent int) {
	a.stop.Do(func() {
		close(a.closing)
		a.mu.Lock()
		a.closed = true
		a.mu.Unlock()
		if !a.started.Load() {
			close(a.done)
			return
		}
		close(a.fill)
	})
	select {
	case <-a.done:
		a.teller.await(ctx)
	case <-ctx.Done():
		a.abandon()
	}
	return int(a.accepted.Load() - a.confirmed.Load())
}

// abandon has the goroutine end without sending what is left.
func (a *Async) abandon() {
	a.stopFlush()
	if !a.started.Load() {
		return
	}
	for range a.fill { // until it is empty
	}
}

// Done is closed when nothing more is sent.
func (a *Async) Done() <-chan struct{} { return a.done }

// TellsCaller reports whether the caller that ctx notes is one of the functions of
// the configuration.
func (a *Async) TellsCaller(ctx context.Context) bool { return a.teller.isCaller(ctx) }
