package middleware

import (
	"context"
	"fmt"
	"time"

	"github.com/omnibus-go/bus"
)

// Timeout sets a deadline for what is inside it: ctx ends d after the call
// began, or earlier if it had an earlier deadline. A handler that ignores its
// context is waited for all the same, and what it returns counts.
//
// It differs from the option bus.HandlerTimeout in where the clock starts. That
// option is for one handler and outside all middleware, so time spent waiting in
// it (Throttle) counts; this is for a whole bus too, and counts from its place.
func Timeout(d time.Duration) (bus.Middleware, error) {
	if d <= 0 {
		return nil, invalid("Timeout", "d", fmt.Sprintf("must be more than zero, not %v", d))
	}
	return func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error {
			ctx, cancel := context.WithTimeout(ctx, d)
			defer cancel()
			return next(ctx, m)
		}
	}, nil
}
