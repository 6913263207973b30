package middleware

import (
	"context"
	"fmt"
	"time"

	"github.com/omnibus-go/bus"
)

// Timeout returns a middleware that sets a deadline for the inner middleware and the handler. The
// context ends d after the call began, or at an earlier deadline. A handler that ignores its
// context is not interrupted. Timeout waits for it and returns its result.
//
// The option bus.HandlerTimeout is for one handler and starts its clock before all middleware, so
// the wait in a Throttle counts. Timeout can be used for the whole bus, and starts its clock at
// its position among the middleware.
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
