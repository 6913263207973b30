package deadline

import (
	"context"
	"time"
)

// Extend returns a context that ends by itself only after ctx has ended and grace has passed. It is
// for a request whose outcome must be known, because it is undone if ctx has ended. The
// caller calls done when nobody uses the context any more.
func Extend(ctx context.Context, grace time.Duration) (extended context.Context, done func()) {
	extended, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-extended.Done():
		}
	})
	return extended, func() {
		stop()
		cancel()
	}
}
