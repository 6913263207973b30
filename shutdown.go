package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/registry"
)

// life is how far a bus is with its end.
//
// States: open → stopping → closed. The first Shutdown does the work on its own
// goroutine; later ones wait for done.
type life struct {
	once     sync.Once
	stopping chan struct{} // closed when the first Shutdown begins
	done     chan struct{} // closed when it has ended
	err      error         // its result, valid when done is closed
	closing  atomic.Bool   // the connection is being closed by us
	handlers context.Context
	cancel   context.CancelCauseFunc
}

func (l *life) begin() {
	l.stopping = make(chan struct{})
	l.done = make(chan struct{})
	ctx, cancel := context.WithCancelCause(context.Background())
	l.handlers, l.cancel = &handlerContext{Context: ctx, stopping: l.stopping}, cancel
}

// Done returns a channel that is closed when the bus has ended.
func (b *Bus) Done() <-chan struct{} {
	if b.none() {
		return endedAlready
	}
	return b.life.done
}

// Close is Shutdown with the bus's drain timeout.
func (b *Bus) Close() error { return b.Shutdown(context.Background()) }

// errDrainTimeout is the cause of the end of a handler's context when the bus
// could not wait longer.
var errDrainTimeout = errors.New("bus: the drain timeout is used up")

// Shutdown ends the bus in order: what PublishAsync has in its buffer is sent; no
// new subscriptions; messages that have arrived are handled, and messages of
// streams that wait are given back; then no more publishing, the buffer is sent
// once more, what PublishToAsync has sent is acknowledged, the connection closed, the embedded server stopped, and the store
// directory released. Handlers may publish and request until the end.
//
// Where ctx has no deadline it gets the drain timeout. The last tenth of that time,
// at most a second, is kept for what must not be lost: when it begins, the
// handlers' contexts end, no further message is handled, and handlers have half of
// it to return, while they may still publish; in the other half what was published
// is sent. When ctx is cancelled, all that is done at once.
//
// It returns what was left behind, *DrainError and *UnsentError, joined, or nil,
// at the latest 100 ms after the end of ctx, and what it takes to stop the embedded
// server. Further calls wait for the first one, until their ctx ends. Called from a
// handler of this bus, or from the function of WithEvents, it does not wait for that.
func (b *Bus) Shutdown(ctx context.Context) error {
	if b.none() {
		return nil
	}
	if ctx == nil {
		return noContext("Shutdown")
	}
	ctx, cancel := b.cfg.withDrainTimeout(dispatch.FromCaller(ctx))
	defer cancel()
	first := false
	b.life.once.Do(func() { first = true })
	if first {
		b.life.err = b.shutdown(ctx)
		close(b.life.done)
		return b.life.err
	}
	if b.runsCaller(ctx) {
		return nil // the first call waits for this handler: waiting for it would stall both
	}
	select {
	case <-b.life.done:
		return b.life.err
	case <-ctx.Done():
		return fmt.Errorf("%w: the bus is still stopping", ended(ctx))
	}
}

func (b *Bus) shutdown(ctx context.Context) error {
	close(b.life.stopping)
	defer b.unobserve()
	l := newStopTimes(ctx)
	defer l.release()
	defer context.AfterFunc(l.handling, func() { b.life.cancel(whyEnded(ctx)) })() // should a peer hold up what follows
	defer context.AfterFunc(l.sending, b.link.Abort)()
	if b.link.Conn().IsConnected() {
		_ = b.async.Flush(l.taking) // for our own subscribers; Drain counts what is not sent
	}
	b.window.Ending()
	errs := []error{b.drainMembers(ctx, l)}
	unsent := b.async.Drain(l.sending)
	_ = b.link.Shut(ctx) // who is still inside gets ErrClosed or ErrUnknownOutcome
	if unsent += b.window.Close(); unsent > 0 {
		errs = append(errs, &UnsentError{Messages: unsent})
	}
	errs = append(errs, b.lastFlush(l.sending))
	b.life.closing.Store(true)
	b.link.Close()
	<-b.async.Done()
	if b.engine != nil {
		errs = append(errs, b.engine.stop())
	}
	return errors.Join(errs...)
}

// stopTimes are the ends of the parts of a shutdown, each later than the one before,
// so that what handlers do not finish costs nothing that was published.
type stopTimes struct {
	taking   context.Context // until then messages are handled
	handling context.Context // until then handlers may return
	sending  context.Context // until then what is buffered may be sent
	release  func()
}

const (
	mostKept = time.Second            // of the time of ctx, kept for what comes after the handlers
	lastWord = 100 * time.Millisecond // beyond ctx, for the last flush: the server usually answers in microseconds
)

// newStopTimes divides the time that ctx, which has a deadline, leaves.
func newStopTimes(ctx context.Context) stopTimes {
	now := time.Now()
	end, _ := ctx.Deadline()
	kept := min(mostKept, max(end.Sub(now), 0)/10)
	taking, cancelTaking := context.WithDeadline(ctx, end.Add(-kept))
	handling, cancelHandling := context.WithDeadline(ctx, end.Add(-kept/2))
	if end.Before(now) {
		end = now
	}
	sending, cancelSending := context.WithDeadline(context.WithoutCancel(ctx), end.Add(lastWord))
	stop := context.AfterFunc(ctx, func() {
		late := time.NewTimer(lastWord)
		defer late.Stop()
		select {
		case <-late.C:
			cancelSending()
		case <-sending.Done():
		}
	})
	return stopTimes{taking, handling, sending, func() {
		stop()
		cancelTaking()
		cancelHandling()
		cancelSending()
	}}
}

// drainMembers drains everything that handles messages and ends the handlers'
// context. Those that could not return before are given time to do so.
func (b *Bus) drainMembers(ctx context.Context, l stopTimes) error {
	members := b.registry.Members()
	err := b.registry.Close(l.taking)
	if l.taking.Err() == nil {
		b.life.cancel(ErrClosed)
		return err
	}
	b.life.cancel(whyEnded(ctx))
	for pause := 50 * time.Microsecond; b.running(ctx, members) > 0; pause = min(2*pause, 5*time.Millisecond) {
		select {
		case <-time.After(pause): // nobody tells when a handler returns that nobody waits for
		case <-l.handling.Done():
			return err
		}
	}
	return err
}

// whyEnded is the cause with which handlers' contexts end before handlers do.
func whyEnded(ctx context.Context) error {
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("bus: Shutdown waits no longer: %w", context.Cause(ctx))
	}
	return errDrainTimeout
}

// running is the number of handlers that run, without one that called us.
func (b *Bus) running(ctx context.Context, members []registry.Member) (n int) {
	for _, m := range members {
		if s, ok := m.(statser); ok {
			n += s.stats().InFlight
		}
		if callerIn(ctx, m) {
			n--
		}
	}
	return n
}

// lastFlush makes sure that what was published reached the server.
func (b *Bus) lastFlush(ctx context.Context) error {
	if nc := b.link.Conn(); !nc.IsConnected() {
		if b.link.Aborted() { // while this waited for the connection
			return fmt.Errorf("bus: the last messages may not have reached the server, which takes none: %w", translate(context.DeadlineExceeded))
		}
		if n, err := nc.Buffered(); err == nil && n > 0 {
			return fmt.Errorf("%w: the %d bytes buffered since then are lost", ErrDisconnected, n)
		}
		return nil
	}
	if err := b.link.Flush(ctx, b.cfg.timeout); err != nil {
		return fmt.Errorf("bus: the last messages may not have reached the server: %w", translate(err))
	}
	return nil
}

// runsCaller reports whether the caller that ctx notes is a handler of b, or the
// function of WithEvents, where Shutdown waits for that.
func (b *Bus) runsCaller(ctx context.Context) bool {
	return b.async.TellsCaller(ctx) || slices.ContainsFunc(b.registry.Members(), func(m registry.Member) bool { return callerIn(ctx, m) })
}

// callerIn reports whether the caller that ctx notes is one of the handlers of m.
func callerIn(ctx context.Context, m registry.Member) bool {
	h, ok := m.(interface{ runsCaller(context.Context) bool })
	return ok && h.runsCaller(ctx)
}
