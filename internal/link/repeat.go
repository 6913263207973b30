package link

import (
	"context"
	"errors"
)

// WhileConnected returns a context that ends with ctx, and with the cause
// ErrDisconnected when the connection is lost: an answer that was lost with it does not
// come, and whoever waits for it would wait in vain. Call end when nobody does any more.
func (l *Link) WhileConnected(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	remove := l.losses.add(func() { cancel(ErrDisconnected) })
	return ctx, func() {
		remove()
		cancel(nil)
	}
}

// Repeat calls ask, and again each time it failed and the connection was lost meanwhile,
// until ctx ends. What ask asks for must do no harm twice.
func (l *Link) Repeat(ctx context.Context, ask func(context.Context) error) error {
	for {
		lost, err := l.once(ctx, ask)
		if err == nil || !lost || ctx.Err() != nil {
			return err
		}
	}
}

// once calls ask and reports whether the connection was lost meanwhile.
func (l *Link) once(ctx context.Context, ask func(context.Context) error) (lost bool, err error) {
	ctx, end := l.WhileConnected(ctx)
	defer end()
	err = ask(ctx)
	return errors.Is(context.Cause(ctx), ErrDisconnected), err
}
