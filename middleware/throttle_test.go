package middleware_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/middleware"
)

func TestThrottleRefusesBadArguments(t *testing.T) {
	t.Parallel()
	for _, perSecond := range []float64{0, -1, math.NaN(), math.Inf(1), math.Inf(-1)} {
		refused(t, "Throttle", "perSecond")(middleware.Throttle(perSecond, 1))
	}
	for _, burst := range []int{0, -1} {
		refused(t, "Throttle", "burst")(middleware.Throttle(1, burst))
	}
}

func TestThrottleKeepsRateAndOrder(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		began := time.Now()
		var order []int
		var at []time.Duration
		_, err := bus.Subscribe(b, "c.>", func(_ context.Context, m *bus.Msg[int]) error {
			order = append(order, m.Data)
			at = append(at, time.Since(began))
			return nil
		}, bus.Use(must(t)(middleware.Throttle(2, 3))))
		check(t, err)
		publish(t, b, 6)
		pass(time.Minute)
		if want := []int{0, 1, 2, 3, 4, 5}; !slices.Equal(order, want) {
			t.Errorf("order %v", order)
		}
		want := []time.Duration{0, 0, 0, 500 * time.Millisecond, time.Second, 1500 * time.Millisecond}
		if !slices.Equal(at, want) {
			t.Errorf("handled at %v, want %v", at, want)
		}
	})
}

func TestThrottleIsSharedByItsHandlers(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		began := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		count := func(context.Context, *bus.Msg[int]) error {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(began))
			return nil
		}
		throttle := must(t)(middleware.Throttle(1, 1))
		for range 2 {
			_, err := bus.Subscribe(b, "c.>", count, bus.Use(throttle))
			check(t, err)
		}
		publish(t, b, 2) // for each of the two
		pass(time.Minute)
		if want := []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("handled at %v, want %v", at, want)
		}
	})
}

func TestThrottleEndsWithTheContext(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		want error
		took time.Duration
	}{
		"ended before": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}, context.Canceled, 0},
		"ends while waiting": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, context.Canceled, time.Second},
		"deadline before its turn": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 9*time.Second)
		}, context.DeadlineExceeded, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				h := must(t)(middleware.Throttle(0.1, 1))(func(context.Context, *bus.RawMsg) error {
					calls++
					return nil
				})
				began := time.Now()
				check(t, h(t.Context(), &bus.RawMsg{}))
				ctx, cancel := test.ctx(t.Context())
				defer cancel()
				if err := h(ctx, &bus.RawMsg{}); !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if took := time.Since(began); took != test.took || calls != 1 {
					t.Errorf("after %v and %d calls, want %v and 1", took, calls, test.took)
				}
				check(t, h(t.Context(), &bus.RawMsg{}))
				if took := time.Since(began); took != 10*time.Second {
					t.Errorf("the next had its turn after %v, want 10s: the one that left takes none", took)
				}
			})
		})
	}
}

func TestThrottleGivesMessagesOfStreamsBackAtStop(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := stream(t, b)
		store(t, st, 5)
		handled := 0
		_, err := bus.Consume(t.Context(), st, "c", "s.>", func(context.Context, *bus.Msg[int]) error {
			handled++
			return nil
		}, bus.Use(must(t)(middleware.Throttle(0.001, 1))))
		check(t, err)
		synctest.Wait()
		began := time.Now()
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if took := time.Since(began); took > time.Second || handled != 1 {
			t.Errorf("Close took %v with %d handled, want no waiting for turns and 1", took, handled)
		}
	}, bus.WithSlog(slog.New(slog.DiscardHandler)))
}

// Nor is it an attempt: a message that waits is not given up, by Close or since its
// turn comes after its deadline.
func TestThrottleGivesUpNothing(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]bus.Middleware{
		"at stop":                         func(next bus.RawHandler) bus.RawHandler { return next },
		"as the turn is after a deadline": must(t)(middleware.Timeout(time.Second)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told atomic.Int64
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := stream(t, b)
				store(t, st, 10)
				handled := 0
				_, err := bus.Consume(t.Context(), st, "c", "s.>", func(context.Context, *bus.Msg[int]) error {
					handled++
					return nil
				}, bus.Use(opt, must(t)(middleware.Throttle(1.0/60, 1))), bus.Retry(bus.RetryPolicy{MaxAttempts: 1}), bus.Concurrency(4))
				check(t, err)
				pass(2*time.Minute + time.Second)
				check(t, b.Close())
				if handled != 3 {
					t.Errorf("%d were handled, want 3", handled)
				}
			}, bus.WithSlog(slog.New(slog.DiscardHandler)), bus.WithEvents(func(event.Event) { told.Add(1) }))
			if told.Load() != 0 {
				t.Errorf("%d events", told.Load())
			}
		})
	}
}

func TestThrottleHandlesCoreMessagesAtStop(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		handled := 0
		_, err := bus.Subscribe(b, "c.>", func(context.Context, *bus.Msg[int]) error {
			handled++
			return nil
		}, bus.Use(must(t)(middleware.Throttle(1, 1))))
		check(t, err)
		publish(t, b, 4)
		check(t, b.Close()) // the drain timeout of bustest is 5 s
		if handled != 4 {
			t.Errorf("%d handled, want 4", handled)
		}
	})
}

func TestThrottleLetsPanicsPass(t *testing.T) {
	t.Parallel()
	h := must(t)(middleware.Throttle(1000, 2))(func(context.Context, *bus.RawMsg) error { panic("boom") })
	for range 2 {
		if v := panicValue(h, &bus.RawMsg{}); v != "boom" {
			t.Errorf("recovered %v", v)
		}
	}
}
