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

// Throttle lets perSecond messages a second through, and burst of them at once
// after a pause. The others wait for their turn, in the order in which they came,
// each in its place among those that may be handled at once (bus.Concurrency).
// All handlers that are given the same value share the rate.
//
// A message whose context ends first fails with the context's error, at once
// when its turn would come after its deadline; one of a stream comes again then, at
// the time of that turn. Messages of a stream that wait when the bus begins to stop
// go back to the stream for later. Both are no attempts (bus.Postpone). Core messages
// go on waiting, until the drain timeout. Core messages that arrive
// faster than they are let through pile up and are dropped at
// bus.PendingLimits; those of a stream stay there.
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

const aTurn = "its turn in Throttle"

var errStopping = errors.New("bus: stopping before the message had its turn in Throttle; it goes back to its stream")

// takeTurn waits until m may go on. limiter.Wait does not know of stopping.
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

// stoppingFor is closed when m should not wait longer because the bus stops.
func stoppingFor(ctx context.Context, m *bus.RawMsg) <-chan struct{} {
	if m.Stream == "" {
		return nil // it would be lost
	}
	return bus.Stopping(ctx)
}

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
