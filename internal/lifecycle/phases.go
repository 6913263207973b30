package lifecycle

import (
	"context"
	"time"
)

// Phases divides the time of a shutdown. Each phase ends later than the one before, so
// that time which handlers use up is not taken from messages that were published.
type Phases struct {
	Handling  context.Context // until it ends, messages are handled
	Returning context.Context // until it ends, the handlers that still run may return
	Sending   context.Context // until it ends, buffered messages may be sent

	release func()
}

const (
	maxReserve = time.Second            // the most that is kept of the time of ctx for Returning and Sending
	flushGrace = 100 * time.Millisecond // after ctx, for the last flush: the server usually answers in microseconds
)

// NewPhases divides the time until the deadline of ctx, which has one. Handling ends when a
// tenth of it is left, at most a second, and Returning in the middle of that. Both end when
// ctx is cancelled. Sending ends 100 ms after ctx. The caller calls Release.
func NewPhases(ctx context.Context) Phases {
	now := time.Now()
	end, _ := ctx.Deadline()
	reserve := min(maxReserve, max(end.Sub(now), 0)/10)
	handling, cancelHandling := context.WithDeadline(ctx, end.Add(-reserve))
	returning, cancelReturning := context.WithDeadline(ctx, end.Add(-reserve/2))
	if end.Before(now) {
		end = now
	}
	sending, cancelSending := context.WithDeadline(context.WithoutCancel(ctx), end.Add(flushGrace))
	stop := context.AfterFunc(ctx, func() { cancelAfter(sending, flushGrace, cancelSending) })
	return Phases{handling, returning, sending, func() {
		stop()
		cancelHandling()
		cancelReturning()
		cancelSending()
	}}
}

// cancelAfter calls cancel after d, unless ctx ends before. It runs on a goroutine of
// NewPhases.
func cancelAfter(ctx context.Context, d time.Duration, cancel func()) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		cancel()
	case <-ctx.Done():
	}
}

// Release ends all phases and frees their timers.
func (p Phases) Release() { p.release() }
