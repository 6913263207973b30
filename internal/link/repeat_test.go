package link_test

import (
	"context"
	"errors"
	"testing"

	"github.com/omnibus-go/bus/internal/testserver"
)

// What waits for an answer is asked again as soon as the connection was lost. Repeat ends
// with its context, and with an error that has nothing to do with the connection.
func TestRepeat(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	l, to := open(t, s.InProcessConn)
	errOther := errors.New("something else")
	if err := l.Repeat(t.Context(), func(context.Context) error { return errOther }); !errors.Is(err, errOther) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := l.Repeat(ctx, func(ctx context.Context) error {
		calls++
		reconnect(t, l, to)
		<-ctx.Done()
		if calls == 2 {
			cancel()
		}
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || calls != 2 {
		t.Errorf("after %d calls: %v", calls, err)
	}
}
