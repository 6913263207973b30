// Package middleware has middleware for the handlers of a bus. Use it for all handlers
// (bus.WithMiddleware) or for one handler (bus.Use).
//
//	limit, err := middleware.Throttle(50, 10)
//	if err != nil {
//		return err
//	}
//	con, err := bus.Consume(ctx, orders, "billing", OrderPlaced, bill, bus.Use(limit))
//
// Each constructor returns a *bus.OptionError for an invalid argument. The middleware that it
// returns is safe for concurrent use. No middleware for panics is needed, because the bus
// recovers from a panic outside of all middleware. The middleware here does not recover. It
// counts a panic as a failure.
//
// # Order
//
// The first middleware in the list is the outermost. If you use several, use this order:
//
//	bus.Use(logging, deduplicate, throttle, breaker, timeout)
//
// Then a duplicate does not wait in the throttle. The wait in the throttle is not a failure for
// the breaker and is not part of the timeout. A handler that exceeds the timeout is a failure
// for the breaker.
//
// # Shared state
//
// Handlers with the same Throttle or CircuitBreaker value share its rate or its state. So one
// breaker stops all handlers that use the same database. Make one value for each resource.
// Deduplicate has separate state for each subscription, responder and consumer. Timeout and
// Logging have no state.
package middleware

import (
	"context"
	"fmt"

	"github.com/omnibus-go/bus"
)

// invalid returns the error for an invalid argument of a constructor.
func invalid(fn, arg, reason string) error {
	return &bus.OptionError{Option: "middleware." + fn, Reason: arg + " " + reason}
}

// waitError returns the error for a message whose context ended while it waited.
func waitError(ctx context.Context, what string) error {
	return fmt.Errorf("bus: the message's context ended while it waited for %s: %w", what, ctx.Err())
}
