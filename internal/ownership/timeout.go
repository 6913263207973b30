package ownership

import (
	"context"
	"time"
)

// withTolerantTimeout returns a context that ends after d. A process that was suspended
// for longer than d gets half of d more when it continues, so that it first reads the
// reply that has arrived meanwhile.
func withTolerantTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	first := time.AfterFunc(d/2, func() {
		second := time.AfterFunc(d/2, cancel)
		context.AfterFunc(ctx, func() { second.Stop() })
	})
	return ctx, func() {
		first.Stop()
		cancel()
	}
}

// wakeup wakes the goroutine that receives from it. Signals that come before it wakes
// count as one.
type wakeup chan struct{}

func newWakeup() wakeup { return make(wakeup, 1) }

// signal never blocks.
func (w wakeup) signal() {
	select {
	case w <- struct{}{}:
	default:
	}
}
