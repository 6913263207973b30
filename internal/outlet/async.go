package outlet

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrFull is returned by Async.Add when the buffer is full and AsyncConfig.Wait is not
// set.
var ErrFull = errors.New("the buffer is full")

// ErrEnded is returned by Async.Add after Drain, and by Window.Add after Close.
var ErrEnded = errors.New("the asynchronous publisher has ended")

const (
	batchSize    = 100
	batchDelay   = 100 * time.Millisecond
	flushTimeout = 5 * time.Second // of one flush; a later one confirms what it did not
)

// AsyncConfig holds the size of an Async and the functions it calls for messages it
// could not send. It calls them one at a time, on the goroutine of its reporter. Only
// Drain waits for that goroutine.
type AsyncConfig struct {
	Size   int                       // capacity of the buffer, in messages
	Wait   bool                      // a full buffer makes Add wait
	Failed func(m *Message, e error) // m was accepted, and handing it to the connection failed
	Lost   func(messages int)        // so many were handed to the connection, and it was lost before the server confirmed them
}

// Async sends messages in the background, in order. It hands them to the connection.
// It flushes the connection when the buffer is empty, after 100 messages, or after
// 100 ms. While a flush is under way it waits for the result before it starts the next.
// A flush confirms all messages that were sent before the flush. At
// most max(Size, 100) messages are unconfirmed. Until then a long way to the server does
// not slow the sending down.
//
// Goroutines: run, started by the first Add; one for each flush; and that of the
// reporter, while there is something to report. Drain ends them all and waits for them.
// Safe for concurrent use.
type Async struct {
	out      *Outlet
	cfg      AsyncConfig
	reporter reporter

	mu      sync.RWMutex // Add and Flush read-lock it, Drain locks it: none of them runs any more once closed is set
	closed  bool
	closing chan struct{} // closed by Drain: unblocks an Add that waits for room
	start   sync.Once
	buffer  chan *entry // made by launch
	started atomic.Bool // buffer is made
	stop    sync.Once
	done    chan struct{}

	accepted  atomic.Int64 // number of messages
	confirmed atomic.Int64 // of those, how many the server confirmed

	flushContext context.Context // ends when Drain stops waiting for a flush
	stopFlush    context.CancelFunc

	confirmations confirmations // belongs to run

	pause       atomic.Pointer[asyncPause] // nil while it is not quiesced
	paused      chan struct{}              // has one when run has to look at pause
	unconfirmed atomic.Int64               // of confirmations, after the latest batch
}

// entry is a message in the buffer, or a marker of Flush.
type entry struct {
	message *Message
	ctx     context.Context // of the publisher: carries its trace
	reached chan<- struct{} // of a marker: closed when all entries before it were sent
}

// NewAsync returns an Async that sends through o.
func NewAsync(o *Outlet, c AsyncConfig) *Async {
	a := &Async{out: o, cfg: c, closing: make(chan struct{}), done: make(chan struct{}), paused: make(chan struct{}, 1)}
	a.flushContext, a.stopFlush = context.WithCancel(context.Background())
	return a
}

// launch makes the buffer and starts run. The first Add calls it.
func (a *Async) launch() {
	a.buffer = make(chan *entry, a.cfg.Size)
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

// put puts m into the buffer. Add calls it under the read lock.
func (a *Async) put(ctx context.Context, m *Message) error {
	if a.closed {
		return ErrEnded
	}
	a.start.Do(a.launch)
	e := &entry{message: m, ctx: context.Background()}
	if a.out.tel != nil {
		e.ctx = context.WithoutCancel(ctx)
	}
	a.accepted.Add(1) // before it can be confirmed
	select {
	case a.buffer <- e:
		return nil
	default:
	}
	err := ErrFull
	if a.cfg.Wait {
		err = a.awaitRoom(ctx, e)
	}
	if err != nil {
		a.accepted.Add(-1)
	}
	return err
}

// awaitRoom puts e into the buffer and waits for room if it is full.
func (a *Async) awaitRoom(ctx context.Context, e *entry) error {
	select {
	case a.buffer <- e:
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
	return len(a.buffer)
}

// Flush waits until everything added before was handed to the connection. It
// returns the error of ctx when that ends first, and ErrEnded once Drain has begun.
func (a *Async) Flush(ctx context.Context) error {
	reached := make(chan struct{})
	if err := a.putMarker(ctx, reached); err != nil {
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

// putMarker puts a marker for Flush into the buffer. Before the first Add there is
// nothing to wait for, so the marker is reached at once.
func (a *Async) putMarker(ctx context.Context, reached chan<- struct{}) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		return ErrEnded
	}
	if !a.started.Load() {
		close(reached)
		return nil
	}
	return a.awaitRoom(ctx, &entry{reached: reached})
}

// run is the goroutine that sends what is in the buffer until Drain closes that.
func (a *Async) run() {
	defer close(a.done)
	var unwatch func()
	a.confirmations, unwatch = watchConfirmations(a.out.link)
	defer unwatch()
	for {
		a.whilePaused()
		fill, closing := a.buffer, (<-chan struct{})(nil)
		if a.room() == 0 {
			fill, closing = nil, a.closing
		}
		select {
		case first, ok := <-fill:
			if !ok {
				a.confirmAll()
				return
			}
			a.sendBatch(first)
			a.flushIfNeeded()
			a.unconfirmed.Store(int64(a.confirmations.unconfirmed()))
		case <-closing:
		case <-a.paused:
		case s := <-a.confirmations.states:
			a.setState(s)
			a.flushIfNeeded() // for what was sent while there was no connection
		case err := <-a.confirmations.flushResult:
			a.flushed(err)
			a.flushIfNeeded()
		}
	}
}

// room returns how many messages may be sent before the next confirmation. After Drain
// there is no limit: waiting would gain nothing.
func (a *Async) room() int {
	select {
	case <-a.closing:
		return batchSize
	default:
		return max(max(a.cfg.Size, batchSize)-a.confirmations.unconfirmed(), 0)
	}
}

// sendBatch sends first and what else is in the buffer, up to the limits of a batch.
func (a *Async) sendBatch(first *entry) {
	began := time.Now()
	limit := min(a.room(), batchSize)
	a.send(first)
	for range limit - 1 {
		select {
		case e, ok := <-a.buffer:
			if !ok {
				return
			}
			a.send(e)
		default:
			return
		}
		if time.Since(began) >= batchDelay || a.pause.Load() != nil {
			return
		}
	}
}

// send sends one message, or reaches a marker of Flush. run calls it.
func (a *Async) send(e *entry) {
	if e.reached != nil {
		close(e.reached)
		return
	}
	a.readStates()
	if err := a.out.Send(e.ctx, e.message); err != nil {
		a.reporter.report(func() { a.cfg.Failed(e.message, err) }, a.cfg.Lost)
		return
	}
	a.confirmations.sent++
}

// readStates handles all changes of the connection that nats.go has reported.
func (a *Async) readStates() {
	for {
		select {
		case s := <-a.confirmations.states:
			a.setState(s)
		default:
			return
		}
	}
}

// setState handles one change of the connection and reports the messages lost with it.
func (a *Async) setState(s nats.Status) {
	if lost := a.confirmations.setState(s); lost > 0 {
		a.reporter.reportCount(lost, a.cfg.Lost)
	}
}

// flushIfNeeded starts a flush if messages are unconfirmed, the connection is up and no
// other flush is under way.
func (a *Async) flushIfNeeded() {
	c := &a.confirmations
	if c.flushing || !c.connected || c.unconfirmed() == 0 {
		return
	}
	a.flush()
}

// flush starts a flush in a goroutine of its own. run gets the result from flushResult.
func (a *Async) flush() {
	c := &a.confirmations
	c.flushing, c.flushedAt = true, c.sent
	go func() { c.flushResult <- a.out.link.Flush(a.flushContext, flushTimeout) }()
}

// flushed handles the result of a flush.
func (a *Async) flushed(err error) {
	a.readStates() // the connection may have been lost before the answer came
	a.confirmations.flushing = false
	if err == nil {
		a.confirmed.Add(a.confirmations.confirm())
	}
}

// confirmAll flushes until every message is confirmed or lost, or the server does not
// answer. run calls it last.
func (a *Async) confirmAll() {
	c := &a.confirmations
	for a.readStates(); c.flushing || c.unconfirmed() > 0; {
		if !c.flushing {
			a.flush() // also without a connection: it may come back in time
		}
		err := <-c.flushResult
		a.flushed(err)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, nats.ErrConnectionClosed) {
			return
		}
	}
}

// Drain accepts no more messages, sends those in the buffer until ctx ends, and ends the
// goroutines. It returns how many accepted messages may not have reached the server:
// they stayed in the buffer, sending them failed, or they were not confirmed. It may be
// called again. When ctx ends it returns without waiting for run. An unresponsive peer
// may hold run up until the link is aborted; Done is closed when run has ended. Drain
// does not wait for the reporter if the reporter itself calls it, see IsReporting.
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
		close(a.buffer)
	})
	select {
	case <-a.done:
		a.reporter.await(ctx)
	case <-ctx.Done():
		a.abandon()
	}
	return int(a.accepted.Load() - a.confirmed.Load())
}

// abandon empties the buffer, so that run ends without sending the rest. Drain calls it.
func (a *Async) abandon() {
	a.stopFlush()
	if !a.started.Load() {
		return
	}
	for range a.buffer { // until it is empty
	}
}

// Done returns a channel that is closed when run has ended.
func (a *Async) Done() <-chan struct{} { return a.done }

// IsReporting reports whether the goroutine recorded in ctx runs one of the functions of
// AsyncConfig. Who runs there must not wait for the reporter.
func (a *Async) IsReporting(ctx context.Context) bool { return a.reporter.isCaller(ctx) }
