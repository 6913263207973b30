package middleware_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/middleware"
)

func TestTimeoutRefusesBadArguments(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{0, -time.Second} {
		refused(t, "Timeout", "d")(middleware.Timeout(d))
	}
}

func TestTimeoutKeepsTheEarlierDeadline(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ outer, d, want time.Duration }{
		"no other":      {0, time.Second, time.Second},
		"other earlier": {time.Second, time.Minute, time.Second},
		"other later":   {time.Minute, time.Second, time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if test.outer > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.outer)
					defer cancel()
				}
				began := time.Now()
				h := must(t)(middleware.Timeout(test.d))(func(ctx context.Context, _ *bus.RawMsg) error {
					<-ctx.Done()
					return ctx.Err()
				})
				if err := h(ctx, &bus.RawMsg{}); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); took != test.want {
					t.Errorf("ended after %v, want %v", took, test.want)
				}
			})
		})
	}
}

func TestTimeoutWaitsForAHandlerThatIgnoresIt(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := stream(t, b)
		store(t, st, 1)
		began := time.Now()
		var calls, running int
		_, err := bus.Consume(t.Context(), st, "c", "s.>", func(ctx context.Context, _ *bus.Msg[int]) error {
			calls++
			running++
			defer func() { running-- }()
			if running > 1 {
				t.Error("two calls at once")
			}
			time.Sleep(time.Minute)
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				t.Errorf("the context says %v", ctx.Err())
			}
			return nil
		}, bus.Use(must(t)(middleware.Timeout(time.Second))))
		check(t, err)
		pass(time.Hour)
		if calls != 1 {
			t.Errorf("%d calls within %v, want 1: the late success counts", calls, time.Since(began))
		}
	})
}

// A throttle's waiting is outside a Timeout within it and inside HandlerTimeout.
func TestTimeoutCountsFromItsPlace(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		opts func(t *testing.T) []bus.SubscribeOption
		want int
	}{
		"Timeout inside": {func(t *testing.T) []bus.SubscribeOption {
			return []bus.SubscribeOption{bus.Use(must(t)(middleware.Throttle(1, 1)), must(t)(middleware.Timeout(100*time.Millisecond)))}
		}, 3},
		"HandlerTimeout": {func(t *testing.T) []bus.SubscribeOption {
			return []bus.SubscribeOption{bus.Use(must(t)(middleware.Throttle(1, 1))), bus.HandlerTimeout(100 * time.Millisecond)}
		}, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				handled := 0
				_, err := bus.Subscribe(b, "c.>", func(context.Context, *bus.Msg[int]) error {
					handled++
					return nil
				}, test.opts(t)...)
				check(t, err)
				publish(t, b, 3)
				pass(time.Minute)
				if handled != test.want {
					t.Errorf("%d of 3 handled, want %d", handled, test.want)
				}
			})
		})
	}
}

func TestTimeoutEndsTheContextAfterAPanic(t *testing.T) {
	t.Parallel()
	var inner context.Context
	h := must(t)(middleware.Timeout(time.Hour))(func(ctx context.Context, _ *bus.RawMsg) error {
		inner = ctx
		panic("boom")
	})
	if v := panicValue(h, &bus.RawMsg{}); v != "boom" {
		t.Errorf("recovered %v", v)
	}
	if inner.Err() == nil {
		t.Error("the context goes on, and its timer")
	}
}
