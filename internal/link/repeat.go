package link

import (
	"context"
	"errors"
)

// Repeat calls ask, and again each time it failed and the connection was lost meanwhile,
// until ctx ends: an answer that was lost with its connection does not come, and whoever
// waits for it would wait until then. What ask asks for must do no harm twice.
func (l *Link) Repeat(ctx context.Context, ask func(context.Context) error) error {
	for {
		lost, err := l.whileConnected(ctx, ask)
		if err == nil || !lost || ctx.Err() != nil {
			return err
		}
	}
}

// whileConnected calls ask with a context that ends when the connection is lost, and
// reports whether it was.
func (l *Link) whileConnected(ctx context.Context, ask func(context.Context) error) (lost bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer l.losses.add(func() { cancel(ErrDisconnected) })()
	err = ask(ctx)
	return errors.Is(context.Cause(ctx), ErrDisconnected), err
}
