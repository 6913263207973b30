package bus_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// exitFirst returns a handler that ends its goroutine for each message it sees for the
// first time, and how often it was called and has handled one.
func exitFirst() (h bus.Handler[int], calls, handled *atomic.Int64) {
	calls, handled = new(atomic.Int64), new(atomic.Int64)
	var seen sync.Map
	return func(_ context.Context, m *bus.Msg[int]) error {
		calls.Add(1)
		if _, again := seen.LoadOrStore(m.Data, true); !again {
			runtime.Goexit()
		}
		handled.Add(1)
		return nil
	}, calls, handled
}

// A handler that ends its goroutine has failed, as one that panics. The workers go on.
func TestHandlerThatExits(t *testing.T) {
	t.Parallel()
	exits := func(next bus.RawHandler) bus.RawHandler {
		var n atomic.Int64
		return func(ctx context.Context, m *bus.RawMsg) error {
			if n.Add(1) <= 5 {
				runtime.Goexit()
			}
			return next(ctx, m)
		}
	}
	consumeOne := func(opts ...bus.ConsumeOption) func(*testing.T, *bus.Stream, bus.Handler[int]) {
		return func(t *testing.T, st *bus.Stream, h bus.Handler[int]) { consume(t, st, "d", "s.*", h, opts...) }
	}
	consumeMany := func(opts ...bus.ConsumeOption) func(*testing.T, *bus.Stream, bus.Handler[int]) {
		return func(t *testing.T, st *bus.Stream, h bus.Handler[int]) {
			_, err := bus.ConsumeBatch(t.Context(), st, "d", "s.*", func(ctx context.Context, ms []*bus.Msg[int]) error {
				for _, m := range ms {
					if err := h(ctx, m); err != nil {
						return err
					}
				}
				return nil
			}, opts...)
			must(t, err)
		}
	}
	for _, tc := range []struct {
		name  string
		start func(*testing.T, *bus.Stream, bus.Handler[int])
	}{
		{"Consume", consumeOne()},
		{"Consume with workers", consumeOne(bus.Concurrency(2))},
		{"Consume with a rate", consumeOne(bus.RateLimit(100, time.Second))},
		{"Consume with keys", consumeOne(bus.KeyByToken(2), bus.Concurrency(2))},
		{"Consume with a middleware that does", consumeOne(bus.Use(exits))},
		{"ConsumeBatch", consumeMany(bus.BatchSize(3))},
		{"ConsumeBatch with workers", consumeMany(bus.BatchSize(3), bus.Concurrency(2))},
		{"ConsumeBatch with a middleware that does", consumeMany(bus.BatchSize(3), bus.Use(exits))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			option, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				h, _, handled := exitFirst()
				tc.start(t, st, h)
				for i := range 10 {
					must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.%d", i%4)), i)))
				}
				pass(10 * time.Minute)
				if handled.Load() < 10 {
					t.Errorf("%d of 10 messages were handled", handled.Load())
				}
				if s := b.Stats(); s.InFlight != 0 || s.HandlerErrors < 4 || s.Subscriptions[0].Pending != 0 {
					t.Errorf("the statistics are %+v", s)
				}
				isError(t, nextEvent(t, events, event.Retry).Err, bus.ErrExited, "t.FailNow")
				must(t, b.Close())
			}, option)
		})
	}
}

// At the last attempt the message becomes a dead letter.
func TestHandlerThatAlwaysExits(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		consume(t, st, "d", "S", func(context.Context, *bus.Msg[int]) error {
			runtime.Goexit()
			return nil
		}, bus.Retry(bus.RetryPolicy{MaxAttempts: 3}))
		must(t, second(bus.PublishTo(t.Context(), st, "S", 1)))
		pass(time.Minute)
		n := 0
		for l, err := range st.DeadLetters(t.Context(), bus.DeadFilter{Cause: bus.CausePanic}) {
			must(t, err)
			if n++; l.Attempt != 3 {
				t.Errorf("it died after %d attempts", l.Attempt)
			}
			hasText(t, errors.New(l.Error), "runtime.Goexit")
		}
		if n != 1 {
			t.Errorf("there are %d dead letters", n)
		}
		must(t, b.Close())
	})
}

// What an error means for its message holds as well: one that is permanent is not tried
// again, and one that the end of the bus cut off was no attempt.
func TestHandlerThatExitsIsJudged(t *testing.T) {
	t.Parallel()
	permanent := bus.Retry(bus.RetryPolicy{Permanent: func(err error) bool { return errors.Is(err, bus.ErrExited) }})
	for name, start := range map[string]func(*testing.T, *bus.Stream, func(context.Context), ...bus.ConsumeOption){
		"Consume": func(t *testing.T, st *bus.Stream, h func(context.Context), opts ...bus.ConsumeOption) {
			consume(t, st, "d", "S", func(ctx context.Context, _ *bus.Msg[int]) error {
				h(ctx)
				return nil
			}, opts...)
		},
		"ConsumeBatch": func(t *testing.T, st *bus.Stream, h func(context.Context), opts ...bus.ConsumeOption) {
			_, err := bus.ConsumeBatch(t.Context(), st, "d", "S", func(ctx context.Context, _ []*bus.Msg[int]) error {
				h(ctx)
				return nil
			}, opts...)
			must(t, err)
		},
	} {
		t.Run(name+" permanent", func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				start(t, st, func(context.Context) { runtime.Goexit() }, permanent)
				storeRange(t, st, "S", 0, 1)
				pass(10 * time.Minute)
				if dead := deadLetters(t, st, bus.DeadFilter{}); len(dead) != 1 || dead[0].Attempt != 1 {
					t.Errorf("the dead letters are %+v", dead)
				}
				must(t, b.Close())
			})
		})
		t.Run(name+" cut off", func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			once := bus.Retry(bus.RetryPolicy{MaxAttempts: 1})
			b := openOn(t, dir, bus.WithLogger(silent()), bus.WithDrainTimeout(10*time.Millisecond))
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			began := make(chan struct{}, 1)
			start(t, st, func(ctx context.Context) {
				began <- struct{}{}
				<-ctx.Done()
				runtime.Goexit()
			}, once)
			storeRange(t, st, "S", 0, 1)
			wait(t, began, "the handler")
			_ = b.Close() // in vain
			b = openOn(t, dir)
			st, err := b.LookupStream(t.Context(), "S")
			must(t, err)
			if dead := deadLetters(t, st, bus.DeadFilter{}); len(dead) != 0 {
				t.Errorf("the dead letters are %+v", dead)
			}
			must(t, b.Close())
		})
	}
}

// In a batch whose handler ends its goroutine, what was said of others by themselves
// holds.
func TestBatchThatExitsBesideOthers(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 3)
		refuse := func(next bus.RawHandler) bus.RawHandler {
			return func(ctx context.Context, m *bus.RawMsg) error {
				if m.Sequence == 2 {
					return bus.Permanent(errNo)
				}
				return next(ctx, m)
			}
		}
		calls := 0
		_, err := bus.ConsumeBatch(t.Context(), st, "d", bus.Subject[int]("S"), func(context.Context, []*bus.Msg[int]) error {
			if calls++; calls == 1 {
				runtime.Goexit()
			}
			return nil
		}, bus.Use(refuse))
		must(t, err)
		pass(time.Minute)
		if dead := deadLetters(t, st, bus.DeadFilter{}); len(dead) != 1 || dead[0].Sequence != 2 || dead[0].Attempt != 1 {
			t.Errorf("the dead letters are %+v", dead)
		}
		must(t, b.Close())
	})
}

// Processes that keep the order of keys together: of the owner and of a member.
func TestHandlerThatExitsInSeveralProcesses(t *testing.T) {
	t.Parallel()
	b := ownBus(t, anyPort())
	other := connectTo(t, b)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	there, err := other.LookupStream(t.Context(), "S")
	must(t, err)
	var handlers [2]*atomic.Int64
	var all atomic.Int64
	var seen sync.Map
	for i, st := range []*bus.Stream{st, there} {
		handlers[i] = new(atomic.Int64)
		consume(t, st, "d", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
			handlers[i].Add(1)
			if _, again := seen.LoadOrStore(m.Data, true); !again {
				runtime.Goexit()
			}
			all.Add(1)
			return nil
		}, bus.KeyByToken(2), bus.Retry(bus.RetryPolicy{MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond}))
	}
	n := int64(0)
	for handlers[0].Load() == 0 || handlers[1].Load() == 0 || n < 20 {
		must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.%d", n)), int(n))))
		n++
		for n-all.Load() > 20 {
			receiveTick(t)
		}
	}
	eventually(t, "all are handled", func() bool { return all.Load() == n })
	must(t, other.Close())
	must(t, b.Close())
}

// A core handler on a worker of its own fails the message; the others are handled.
func TestCoreHandlerThatExits(t *testing.T) {
	t.Parallel()
	option, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		h, calls, handled := exitFirst()
		sub, err := bus.Subscribe(b, "a", h, bus.Concurrency(2))
		must(t, err)
		for range 2 {
			publishRange(t, b, "a", 0, 20)
			pass(time.Second)
		}
		if calls.Load() != 40 || handled.Load() != 20 || sub.Err() != nil {
			t.Errorf("%d calls have handled %d messages, and Err is %v", calls.Load(), handled.Load(), sub.Err())
		}
		if s := b.Stats(); s.InFlight != 0 || s.HandlerErrors != 20 || s.Handled != 20 {
			t.Errorf("the statistics are %+v", s)
		}
		for range 20 {
			asError[*bus.PanicError](t, nextEvent(t, events, event.HandlerFailed).Err, "Goexit")
		}
		must(t, sub.Drain(t.Context()))
		must(t, b.Close())
	}, option)
}

// A responder likewise. Its requester hears of it.
func TestResponderThatExits(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 2} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				sub, err := bus.Respond(b, "a", func(context.Context, *bus.Msg[int]) (int, error) {
					runtime.Goexit()
					return 0, nil
				}, bus.Concurrency(concurrency))
				must(t, err)
				for range 3 {
					e := asError[*bus.RemoteError](t, second(bus.Request[int](t.Context(), b, bus.Endpoint[int, int]("a"), 1)))
					if e.Code != "500" {
						t.Errorf("the code is %q", e.Code)
					}
					if concurrency == 1 {
						<-sub.Done()
						isError(t, second(bus.Request[int](t.Context(), b, bus.Endpoint[int, int]("a"), 1)), bus.ErrNoResponders)
						break
					}
				}
				must(t, b.Close())
			})
		})
	}
}

// exitOnRelease subscribes to "a" with a handler that says that it began, waits for release
// and ends its goroutine.
func exitOnRelease(t *testing.T, b *bus.Bus) (sub *bus.Subscription, began chan int, release chan struct{}) {
	t.Helper()
	began, release = make(chan int), make(chan struct{})
	sub, err := bus.Subscribe(b, "a", func(_ context.Context, m *bus.Msg[int]) error {
		began <- m.Data
		<-release
		runtime.Goexit()
		return nil
	})
	must(t, err)
	return sub, began, release
}

// With a Concurrency of one a core handler runs on the only goroutine that messages
// come on: the subscription ends with that, and says so. Nobody waits for it.
func TestCoreHandlerThatEndsItsSubscription(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(context.Context, *bus.Bus, *bus.Subscription) error{
		"by itself":     func(context.Context, *bus.Bus, *bus.Subscription) error { return nil },
		"while drained": func(ctx context.Context, _ *bus.Bus, s *bus.Subscription) error { return s.Drain(ctx) },
		"while stopped": func(_ context.Context, _ *bus.Bus, s *bus.Subscription) error { return s.Unsubscribe() },
		"while closed":  func(_ context.Context, b *bus.Bus, _ *bus.Subscription) error { return b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			option, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				sub, began, release := exitOnRelease(t, b)
				publishRange(t, b, "a", 0, 1)
				<-began
				ended := make(chan error)
				go func() { ended <- end(t.Context(), b, sub) }()
				pass(10 * time.Millisecond)
				close(release)
				must(t, <-ended)
				<-sub.Done()
				nextEvent(t, events, event.HandlerFailed)
				isError(t, nextEvent(t, events, event.SubscriptionEnded).Err, bus.ErrExited)
				isError(t, sub.Err(), bus.ErrExited, `Subscribe "a"`)
				must(t, sub.Drain(t.Context()))
				must(t, b.Close())
			}, option)
		})
	}
}

// What waited then is lost, which a Drain says at once.
func TestDrainOfASubscriptionThatItsHandlerEnds(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		sub, began, release := exitOnRelease(t, b)
		publishRange(t, b, "a", 0, 5)
		<-began
		ended := make(chan error)
		go func() { ended <- sub.Drain(t.Context()) }()
		pass(10 * time.Millisecond)
		close(release)
		e := asError[*bus.DrainError](t, <-ended, "has ended the goroutine")
		if e.Pending != 4 || e.Running != 0 {
			t.Errorf("%d messages are left, %d run", e.Pending, e.Running)
		}
	})
}
