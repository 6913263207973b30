package middleware

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/omnibus-go/bus"
)

// Throttle returns a middleware that limits the rate of messages to perSecond a second. After a
// pause it lets up to burst messages through at once. Other messages wait, in the order in which
// they arrived. A waiting message counts for bus.Concurrency. All handlers with the same
// middleware value share the rate.
//
// If the context of a message ends while it waits, the message fails with the error of the
// context. If it would have to wait longer than its deadline, it fails at once; a message of a
// stream is then redelivered when its turn would have come. When the bus begins to stop,
// waiting messages of streams are returned to their stream. Neither of these counts as an attempt (see
// bus.Postpone).
//
// Core messages wait until the drain timeout of the bus. If they arrive faster than the rate they
// queue up, and messages above bus.PendingLimits are dropped. Messages of a stream stay in the
// stream.
func Throttle(perSecond float64, burst int) (bus.Middleware, error) {
	if !(perSecond > 0) || math.IsInf(perSecond, 1) { // NaN is not more than zero
		return nil, invalid("Throttle", "perSecond", fmt.Sprintf("must be a number more than zero, not %v", perSecond))
	}
	if burst < 1 {
		return nil, invalid("Throttle", "burst", fmt.Sprintf("must be at least 1, not %d", burst))
	}
	limiter := rate.NewLimiter(rate.Limit(perSecond), burst)
	return func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error {
			if err := awaitTurn(ctx, limiter, m); err != nil {
				return err
			}
			return next(ctx, m)
		}
	}, nil
}

// aTurn is what a message waits for, in error texts.
const aTurn = "its turn in Throttle"

var errStopping = errors.New("bus: stopping before the message had its turn in Throttle; it goes back to its stream")

// awaitTurn waits until m may be handled. It does not use limiter.Wait, which does not end when the
// bus stops.
func awaitTurn(ctx context.Context, limiter *rate.Limiter, m *bus.RawMsg) error {
	if ctx.Err() != nil {
		return waitError(ctx, aTurn)
	}
	now := time.Now()
	turn := limiter.ReserveN(now, 1)
	delay := turn.DelayFrom(now)
	if delay == 0 {
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok && deadline.Sub(now) < delay {
		turn.CancelAt(now)
		return bus.Postpone(delay, fmt.Errorf("bus: the message's turn in Throttle is %v away, after its deadline: %w", delay, context.DeadlineExceeded))
	}
	err := sleep(ctx, delay, stoppingFor(ctx, m))
	if err != nil {
		turn.Cancel()
	}
	return err
}

// stoppingFor returns a channel that is closed when m must stop waiting because the bus stops.
func stoppingFor(ctx context.Context, m *bus.RawMsg) <-chan struct{} {
	if m.Stream == "" {
		return nil // a core message would be lost
	}
	return bus.Stopping(ctx)
}

// sleep waits for delay. It returns an error if ctx ends or stopping is closed before.
func sleep(ctx context.Context, delay time.Duration, stopping <-chan struct{}) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return waitError(ctx, aTurn)
	case <-stopping:
		return bus.Postpone(0, errStopping)
	}
}
