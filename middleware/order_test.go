package middleware_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/middleware"
)

// trail notes who was called, on the way in and on the way out.
type trail struct {
	mu    sync.Mutex
	steps []string
}

func (tr *trail) add(step string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.steps = append(tr.steps, step)
}

func (tr *trail) named(name string) bus.Middleware {
	return func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error {
			tr.add(name)
			defer tr.add("/" + name)
			return next(ctx, m)
		}
	}
}

// The first listed is the outermost, and those of the bus are outside those of
// the subscription, whatever kind that is.
func TestOrder(t *testing.T) {
	t.Parallel()
	own := func(tr *trail) bus.HandlerOption { return bus.Use(tr.named("own 1"), tr.named("own 2")) }
	tests := map[string]func(t *testing.T, b *bus.Bus, tr *trail){
		"Subscribe": func(t *testing.T, b *bus.Bus, tr *trail) {
			_, err := bus.Subscribe(b, "c.>", func(context.Context, *bus.Msg[int]) error {
				tr.add("handler")
				return nil
			}, own(tr), bus.Use(tr.named("own 3")))
			check(t, err)
			publish(t, b, 1)
		},
		"Respond": func(t *testing.T, b *bus.Bus, tr *trail) {
			_, err := bus.Respond(b, "r.x", func(context.Context, *bus.Msg[int]) (int, error) {
				tr.add("handler")
				return 0, nil
			}, own(tr), bus.Use(tr.named("own 3")))
			check(t, err)
			_, err = bus.Request[int](t.Context(), b, "r.x", 1)
			check(t, err)
		},
		"Consume": func(t *testing.T, b *bus.Bus, tr *trail) {
			st := stream(t, b)
			store(t, st, 1)
			_, err := bus.Consume(t.Context(), st, "c", "s.>", func(context.Context, *bus.Msg[int]) error {
				tr.add("handler")
				return nil
			}, own(tr), bus.Use(tr.named("own 3")))
			check(t, err)
		},
	}
	want := []string{"bus 1", "bus 2", "bus 3", "own 1", "own 2", "own 3", "handler",
		"/own 3", "/own 2", "/own 1", "/bus 3", "/bus 2", "/bus 1"}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := new(trail)
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				run(t, b, tr)
				pass(time.Second)
				check(t, b.Close())
			}, bus.WithMiddleware(tr.named("bus 1"), tr.named("bus 2")), bus.WithMiddleware(tr.named("bus 3")))
			if !slices.Equal(tr.steps, want) {
				t.Errorf("order\n%q, want\n%q", tr.steps, want)
			}
		})
	}
}

// recommended makes all of them, in the order of the package's documentation.
func recommended(t testing.TB, logger hclog.Logger) []bus.Middleware {
	return []bus.Middleware{
		must(t)(middleware.Logging(logger)),
		must(t)(middleware.Deduplicate(time.Hour, 100)),
		must(t)(middleware.Throttle(1, 1)),
		must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 2})),
		must(t)(middleware.Timeout(time.Second)),
	}
}

// All together: each message is handled once in spite of copies, a handler that
// hangs, panics and fails, and a breaker that opens on the way.
func TestAllTogether(t *testing.T) {
	t.Parallel()
	var out lines
	var mu sync.Mutex
	handled := make(map[int]int)
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := stream(t, b)
		store(t, st, 20)
		calls := 0
		_, err := bus.Consume(t.Context(), st, "c", "s.>", func(ctx context.Context, m *bus.Msg[int]) error {
			mu.Lock()
			calls++
			n := calls
			mu.Unlock()
			switch {
			case n%7 == 0:
				panic("boom")
			case n%5 == 0:
				<-ctx.Done()
				return ctx.Err()
			case n < 4:
				return errors.New("not up yet")
			}
			mu.Lock()
			defer mu.Unlock()
			handled[m.Data]++
			return nil
		}, bus.Concurrency(4), bus.Use(recommended(t, out.logger(hclog.Debug))...))
		check(t, err)
		pass(30 * time.Minute)
		_, err = b.JetStream().ResetConsumerToSequence(t.Context(), "S", "c", 1)
		check(t, err)
		pass(time.Minute)
		check(t, b.Close())
	}, quiet)
	for i := range 20 {
		if handled[i] != 1 {
			t.Errorf("message %d succeeded %d times, want once", i, handled[i])
		}
	}
	panics := 0
	for _, line := range out.parsed(t) {
		if line["@message"] == "handler panicked" {
			panics++
		}
	}
	if panics == 0 {
		t.Error("no panic in the log")
	}
}
