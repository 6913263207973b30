package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/lifecycle"
)

// busState is how far a bus is with its end.
//
// States: open → stopping → closed. The first Shutdown does the work on its own
// goroutine. Later ones wait for it.
type busState struct {
	stopOnce *lifecycle.StopOnce
	stopping chan struct{} // closed when the first Shutdown begins
	closing  atomic.Bool   // the connection is being closed by us
	handlers context.Context
	cancel   context.CancelCauseFunc // of handlers
}

// begin makes the state open. It is called once, by open.
func (s *busState) begin() {
	s.stopOnce = lifecycle.NewStopOnce()
	s.stopping = make(chan struct{})
	ctx, cancel := context.WithCancelCause(context.Background())
	s.handlers, s.cancel = &handlerContext{Context: ctx, stopping: s.stopping}, cancel
}

// Done returns a channel that is closed when the bus has ended.
func (b *Bus) Done() <-chan struct{} {
	if b.none() {
		return endedAlready
	}
	return b.state.stopOnce.Done()
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
	ctx, cancel := b.core.WithDrainTimeout(dispatch.FromCaller(ctx))
	defer cancel()
	return b.state.stopOnce.Do(ctx, func() error { return b.shutdown(ctx) }, b.runsCaller, func(error) error {
		return fmt.Errorf("%w: the bus is still stopping", ended(ctx))
	})
}

// shutdown does the work of Shutdown, on the goroutine of the first call. Its order is
// what Shutdown promises.
func (b *Bus) shutdown(ctx context.Context) error {
	close(b.state.stopping)
	defer b.unobserve()
	phases := lifecycle.NewPhases(ctx)
	defer phases.Release()
	defer context.AfterFunc(phases.Returning, func() { b.state.cancel(handlersEndCause(ctx)) })() // should a peer hold up what follows
	defer context.AfterFunc(phases.Sending, b.core.Link.Abort)()
	if b.core.Link.Conn().IsConnected() {
		_ = b.async.Flush(phases.Handling) // for our own subscribers; Drain counts what is not sent
	}
	b.window.StartCounting()
	errs := []error{b.drainMembers(ctx, phases)}
	unsent := b.async.Drain(phases.Sending)
	_ = b.core.Link.Shut(ctx) // who is still inside gets ErrClosed or ErrUnknownOutcome
	if unsent += b.window.Close(); unsent > 0 {
		errs = append(errs, &UnsentError{Messages: unsent})
	}
	errs = append(errs, b.lastFlush(phases.Sending))
	b.state.closing.Store(true)
	b.core.Link.Close()
	<-b.async.Done()
	if b.local != nil {
		errs = append(errs, b.local.stop())
	}
	return errors.Join(errs...)
}

// drainMembers drains everything that handles messages and ends the handlers'
// context. Those that could not return before are given time to do so.
func (b *Bus) drainMembers(ctx context.Context, phases lifecycle.Phases) error {
	members := b.registry.Members()
	err := b.registry.Close(phases.Handling)
	if phases.Handling.Err() == nil {
		b.state.cancel(ErrClosed)
		return err
	}
	b.state.cancel(handlersEndCause(ctx))
	for pause := 50 * time.Microsecond; b.running(ctx, members) > 0; pause = min(2*pause, 5*time.Millisecond) {
		select {
		case <-time.After(pause): // nobody tells when a handler returns that nobody waits for
		case <-phases.Returning.Done():
			return err
		}
	}
	return err
}

// handlersEndCause is the cause with which handlers' contexts end before handlers do.
func handlersEndCause(ctx context.Context) error {
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("bus: Shutdown waits no longer: %w", context.Cause(ctx))
	}
	return errDrainTimeout
}

// running is the number of handlers that run, without one that called us.
func (b *Bus) running(ctx context.Context, members []lifecycle.Member) (n int) {
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
	if nc := b.core.Link.Conn(); !nc.IsConnected() {
		if b.core.Link.Aborted() { // while this waited for the connection
			return fmt.Errorf("bus: the last messages may not have reached the server, which takes none: %w", translate(context.DeadlineExceeded))
		}
		if n, err := nc.Buffered(); err == nil && n > 0 {
			return fmt.Errorf("%w: the %d bytes buffered since then are lost", ErrDisconnected, n)
		}
		return nil
	}
	if err := b.core.Link.Flush(ctx, b.core.Timeout); err != nil {
		return fmt.Errorf("bus: the last messages may not have reached the server: %w", translate(err))
	}
	return nil
}

// runsCaller reports whether the caller that ctx notes is a handler of b, or the
// function of WithEvents, where Shutdown waits for that.
func (b *Bus) runsCaller(ctx context.Context) bool {
	return b.async.IsReporting(ctx) || slices.ContainsFunc(b.registry.Members(), func(m lifecycle.Member) bool { return callerIn(ctx, m) })
}

// callerIn reports whether the caller that ctx notes is one of the handlers of m.
func callerIn(ctx context.Context, m lifecycle.Member) bool {
	h, ok := m.(interface{ runsCaller(context.Context) bool })
	return ok && h.runsCaller(ctx)
}
