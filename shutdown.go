package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/lifecycle"
)

// Done returns a channel that is closed when the bus has ended.
func (b *Bus) Done() <-chan struct{} {
	if b.isZero() {
		return closedChan
	}
	return b.state.stopOnce.Done()
}

// Close is Shutdown with the bus's drain timeout.
func (b *Bus) Close() error { return b.Shutdown(context.Background()) }

// errDrainTimeout is the cause with which the contexts of handlers end when the drain
// timeout is used up.
var errDrainTimeout = errors.New("bus: the drain timeout is used up")

// Shutdown stops the bus in this order: it closes the channel of Stopping, after which no
// handler begins a message of a stream. It sends the buffer of PublishAsync, refuses new
// subscriptions, lets handlers finish the core messages that have arrived, and returns
// messages of streams whose handling has not begun. Then it refuses new messages, sends the
// buffer once more, waits for the acknowledgements of PublishToAsync, closes the connection,
// stops the embedded server and releases the store directory. Handlers can publish and
// request until they have returned.
//
// If ctx has no deadline it gets the drain timeout. Shutdown reserves the last tenth of that
// time, at most a second, for published messages. When the reserve begins, the contexts of
// the handlers end and no further message is handled. Handlers may use half of the reserve to
// return. In the other half Shutdown sends what was published. If ctx is cancelled, all of
// that happens at once.
//
// Shutdown returns nil, or a *DrainError and an *UnsentError, joined, that say what was left
// behind. It returns at the latest 100 ms after the end of ctx, plus the time that the
// embedded server needs to stop. Further calls wait for the first one, until their own ctx
// ends. A call from a handler of this bus, or from the function of WithEvents, does not wait
// for that handler or function.
func (b *Bus) Shutdown(ctx context.Context) error {
	if b.isZero() {
		return nil
	}
	if ctx == nil {
		return noContext("Shutdown")
	}
	ctx, cancel := b.core.WithDrainTimeout(dispatch.FromCaller(ctx))
	defer cancel()
	return b.state.stopOnce.Do(ctx, func() error { return b.shutdown(ctx) }, b.runsCaller, func(error) error {
		return fmt.Errorf("%w: the bus is still stopping", contextError(ctx))
	})
}

// shutdown does the work of Shutdown, on the goroutine of the first call. Its order is
// what Shutdown promises.
func (b *Bus) shutdown(ctx context.Context) error {
	close(b.state.stopping) // consumers begin nothing more
	defer b.unobserve()
	if unlock, err := b.switching.Lock(ctx); err == nil { // a switch goes back, or ends
		defer unlock()
	}
	b.registry.Resume() // what drains may handle and send
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
	if local := b.local.Swap(nil); local != nil {
		errs = append(errs, local.stop())
	}
	return errors.Join(errs...)
}

// drainMembers drains all subscriptions, responders and consumers, and ends the contexts of
// the handlers. Handlers that still run then get time to return.
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

// handlersEndCause is the cause with which the contexts of running handlers end.
func handlersEndCause(ctx context.Context) error {
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("bus: the context of Shutdown was cancelled: %w", context.Cause(ctx))
	}
	return errDrainTimeout
}

// running is the number of running handlers, except one that called Shutdown.
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

// lastFlush waits until the server has all published messages.
func (b *Bus) lastFlush(ctx context.Context) error {
	if nc := b.core.Link.Conn(); !nc.IsConnected() {
		if b.core.Link.Aborted() { // while this waited for the connection
			return fmt.Errorf("bus: the last messages may not have reached the server, which accepts no data: %w", translate(context.DeadlineExceeded))
		}
		if n, err := nc.Buffered(); err == nil && n > 0 {
			return fmt.Errorf("%w: the %d bytes that were published since the connection was lost were not sent, and are lost", ErrDisconnected, n)
		}
		return nil
	}
	if err := b.core.Link.Flush(ctx, b.core.Timeout); err != nil {
		return fmt.Errorf("bus: the last messages may not have reached the server: %w", translate(err))
	}
	return nil
}

// runsCaller reports whether the goroutine that ctx records runs a handler of b, or the
// function of WithEvents. Shutdown must not wait for that goroutine.
func (b *Bus) runsCaller(ctx context.Context) bool {
	return b.async.IsReporting(ctx) || slices.ContainsFunc(b.registry.Members(), func(m lifecycle.Member) bool { return callerIn(ctx, m) })
}

// callerIn reports whether the goroutine that ctx records runs a handler of m.
func callerIn(ctx context.Context, m lifecycle.Member) bool {
	h, ok := m.(interface{ runsCaller(context.Context) bool })
	return ok && h.runsCaller(ctx)
}
