// Package middleware has ready-made middleware for the handlers of a bus: for
// all of them (bus.WithMiddleware) or for one (bus.Use).
//
//	limit, err := middleware.Throttle(50, 10)
//	if err != nil {
//		return err
//	}
//	con, err := bus.Consume(ctx, orders, "billing", OrderPlaced, bill, bus.Use(limit))
//
// Each constructor returns a *bus.OptionError for an argument it cannot work
// with. What they return is safe for concurrent use. Catching panics needs no
// middleware, the bus does it outside all of them; those here let a panic pass
// and count it as a failure.
//
// # Order
//
// The first listed is the outermost. Where several are used together, this
// order makes each see what it should:
//
//	bus.Use(logging, deduplicate, throttle, breaker, timeout)
//
// A duplicate then takes no turn of the throttle, waiting for a turn is neither
// the breaker's failure nor the handler's time, and a handler that runs into its
// timeout counts for the breaker.
//
// # What is shared
//
// Handlers that are given the same Throttle or CircuitBreaker share its rate or
// its state; that is how two handlers that use one database open together. Make
// one for each thing that is to be limited. Deduplicate remembers for each
// subscription, responder and consumer by itself. Timeout and Logging remember
// nothing.
package middleware

import (
	"context"
	"fmt"

	"github.com/omnibus-go/bus"
)

// invalid reports an argument of one of the constructors.
func invalid(fn, arg, reason string) error {
	return &bus.OptionError{Option: "middleware." + fn, Reason: arg + " " + reason}
}

// ended is the error of a message whose context ended while it waited.
func waitError(ctx context.Context, what string) error {
	return fmt.Errorf("bus: the message's context ended while it waited for %s: %w", what, ctx.Err())
}
