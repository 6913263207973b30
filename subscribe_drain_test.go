package bus_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// A handler that ends in time ends the bus without an error, and the context
// stays alive.
func TestShutdownWaitsForHandlers(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		handled := 0
		_, err := bus.Subscribe(b, "a", func(ctx context.Context, m *bus.Msg[int]) error {
			time.Sleep(time.Second)
			if err := ctx.Err(); err != nil {
				t.Error(err)
			}
			// Handlers may publish until the end.
			if err := bus.Publish(ctx, b, "b", m.Data); err != nil {
				t.Error(err)
			}
			handled++
			return nil
		})
		must(t, err)
		publishRange(t, b, "a", 0, 4)
		synctest.Wait()
		must(t, b.Close())
		if handled != 4 {
			t.Errorf("%d handled, want 4", handled)
		}
	})
}

func TestDrainHandlesWhatHasArrived(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 4} {
		t.Run(strconv.Itoa(concurrency), func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			var handled atomic.Int64
			h, began, release := held[int](1000)
			sub, err := bus.Subscribe(b, "a", counted(h, &handled), bus.Concurrency(concurrency))
			must(t, err)
			publishRange(t, b, "a", 0, 1000)
			receive(t, began)
			go close(release)
			must(t, sub.Drain(t.Context()))
			if n := handled.Load(); n != 1000 {
				t.Errorf("%d handled, want 1000", n)
			}
			receive(t, sub.Done())
			must(t, sub.Drain(t.Context())) // again
			must(t, sub.Unsubscribe())
			if n := len(b.Stats().Subscriptions); n != 0 {
				t.Errorf("%d subscriptions are listed", n)
			}
		})
	}
}

// Once a drain has begun the server sends nothing more: what the members of a
// queue group leave goes to the others. This guards the way in which
// internal/link ends the interest, which rests on how servers read a number.
func TestDrainEndsTheInterestAtOnce(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		network bool // of the bus that drains; else in process
		group   []bus.SubscribeOption
	}{
		{"in process", false, nil},
		{"in process, in a group", false, []bus.SubscribeOption{bus.Queue("g")}},
		{"over TCP", true, nil},
		{"over TCP, in a group", true, []bus.SubscribeOption{bus.Queue("g")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			server := bustest.New(t, anyPort())
			other, b := connectTo(t, server), server
			if tc.network {
				b = connectTo(t, server)
			}
			h, began, release := held[int](1000)
			sub, err := bus.Subscribe(b, "a", h, tc.group...)
			must(t, err)
			publishRange(t, other, "a", 0, 3)
			receive(t, began)

			rest, got := collect[int](10000)
			_, err = bus.Subscribe(other, "a", rest, tc.group...)
			must(t, err)
			arrived := func() int {
				must(t, b.Flush(t.Context()))
				return b.Stats().Subscriptions[0].Pending
			}
			result := make(chan error, 1)
			go func() { result <- sub.Drain(t.Context()) }()
			// In a group each message goes to either of the two: it takes a few to
			// see that one of them gets none.
			eventually(t, "the interest ends", func() bool {
				before := arrived()
				publishRange(t, other, "a", 0, 20)
				return arrived() == before
			})
			before := arrived()
			publishRange(t, other, "a", 100, 600)
			if after := arrived(); after != before {
				t.Errorf("%d messages came after the interest had ended", after-before)
			}
			next := 100
			for next < 600 {
				if v := receive(t, got); v == next {
					next++
				} else if v >= 100 {
					t.Fatalf("the other one got %d, want %d", v, next)
				}
			}
			close(release)
			must(t, receive(t, result))
			if n := int(b.Stats().Handled); n < 3 {
				t.Errorf("%d handled, want at least 3", n)
			}
		})
	}
}

// Unsubscribe waits for the handlers that run and drops what waits; then nothing
// runs any more, whatever is under way.
func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 3} {
		t.Run(strconv.Itoa(concurrency), func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			h, began, release := held[int](1000)
			var handled atomic.Int64
			sub, err := bus.Subscribe(b, "a", counted(h, &handled), bus.Concurrency(concurrency))
			must(t, err)
			publishRange(t, b, "a", 0, 100)
			for range concurrency {
				receive(t, began)
			}
			subscriptions := b.Conn().NumSubscriptions()
			result := make(chan error, 1)
			go func() { result <- sub.Unsubscribe() }()
			eventually(t, "the interest ends", func() bool { return b.Conn().NumSubscriptions() < subscriptions })
			nothing(t, result)
			nothing(t, sub.Done())
			close(release)
			must(t, receive(t, result))
			receive(t, sub.Done())
			if n := handled.Load(); n != int64(concurrency) {
				t.Errorf("%d handled, want the %d that ran", n, concurrency)
			}
			must(t, sub.Unsubscribe())
			must(t, sub.Drain(t.Context()))
			must(t, bus.Publish(t.Context(), b, "a", 1))
		})
	}
}

// No handler begins after Unsubscribe has returned.
func TestNothingRunsAfterUnsubscribe(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	stop := make(chan struct{})
	var publisher sync.WaitGroup
	publisher.Go(func() {
		batch := make([]int, 64) // more without a pause would queue up for seconds
		for {
			select {
			case <-stop:
				return
			default:
				if err := bus.PublishBatch(t.Context(), b, "a", batch); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for i := range 200 {
		var ended atomic.Bool
		came := make(chan struct{}, 1)
		sub, err := bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error {
			if ended.Load() {
				t.Error("a handler began after Unsubscribe had returned")
			}
			select {
			case came <- struct{}{}:
			default:
			}
			return nil
		}, bus.Concurrency(1+i%2))
		must(t, err)
		receive(t, came)
		must(t, sub.Unsubscribe())
		ended.Store(true)
	}
	close(stop)
	publisher.Wait()
}

// A drain that cannot wait says what it left.
func TestDrainThatRunsOutOfTime(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 3} {
		t.Run(strconv.Itoa(concurrency), func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			h, began, release := held[int](1000)
			defer close(release)
			sub, err := bus.Subscribe(b, "a", h, bus.Concurrency(concurrency))
			must(t, err)
			publishRange(t, b, "a", 0, 50)
			for range concurrency {
				receive(t, began)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			err = sub.Drain(ctx)
			d := asError[*bus.DrainError](t, err, `"a"`, strconv.Itoa(50-concurrency)+" messages unhandled")
			isError(t, err, context.DeadlineExceeded)
			if d.Pending != 50-concurrency || d.Running != concurrency || d.Subject != "a" {
				t.Errorf("the error is %+v, want %d pending and %d running", d, 50-concurrency, concurrency)
			}
			if again := sub.Drain(t.Context()); again != err {
				t.Errorf("the second call got %v, the first %v", again, err)
			}
			nothing(t, began)
		})
	}
}

// A second call waits no longer than its own context.
func TestSecondDrainHasItsOwnContext(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
		b := ownBus(t)
		h, _, release := held[int](10)
		sub, err := bus.Subscribe(b, "a", h)
		must(t, err)
		publishRange(t, b, "a", 0, 1)
		synctest.Wait()
		first := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			first <- sub.Drain(ctx)
		}()
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		asError[*bus.DrainError](t, sub.Drain(ctx))
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		asError[*bus.DrainError](t, b.Shutdown(ctx))
		if took := time.Since(began); took < 1900*time.Millisecond || took > 2*time.Second {
			t.Errorf("they took %v, want 2s at most, and Shutdown its second but for what it keeps for the end", took)
		}
		close(release)
		<-first
	})
}

// A handler may end its own subscription, or several at once may: none waits
// for itself or for another one that waits for it.
func TestEndingFromAHandler(t *testing.T) {
	t.Parallel()
	ends := map[string]func(*bus.Subscription, *bus.Bus) error{
		"Unsubscribe": func(s *bus.Subscription, _ *bus.Bus) error { return s.Unsubscribe() },
		"Drain":       func(s *bus.Subscription, _ *bus.Bus) error { return s.Drain(context.Background()) },
		"Close":       func(_ *bus.Subscription, b *bus.Bus) error { return b.Close() },
	}
	for name, end := range ends {
		for _, concurrency := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s, concurrency %d", name, concurrency), func(t *testing.T) {
				t.Parallel()
				bustest.Run(t, func(t *testing.T, b *bus.Bus) {
					var sub *bus.Subscription
					var ready sync.WaitGroup // all handlers run before one ends
					ready.Add(concurrency)
					var ended atomic.Int64
					sub, err := bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error {
						ready.Done()
						ready.Wait()
						if err := end(sub, b); err != nil {
							t.Error(err)
						}
						ended.Add(1)
						return nil
					}, bus.Concurrency(concurrency))
					must(t, err)
					began := time.Now()
					for i := range concurrency {
						must(t, bus.Publish(t.Context(), b, "a", i))
					}
					synctest.Wait()
					if took := time.Since(began); took != 0 || ended.Load() != int64(concurrency) {
						t.Errorf("%d of %d handlers ended, after %v", ended.Load(), concurrency, took)
					}
				})
			})
		}
	}
}

// Messages that only the draining handler itself could handle are left, and said
// to be.
func TestDrainFromTheOnlyHandler(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	result := make(chan error, 1)
	begin := make(chan *bus.Subscription, 1)
	sub, err := bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error {
		s := <-begin
		result <- s.Drain(context.Background())
		return nil
	})
	must(t, err)
	publishRange(t, b, "a", 0, 5)
	begin <- sub
	if d := asError[*bus.DrainError](t, receive(t, result)); d.Pending != 4 || d.Running != 1 {
		t.Errorf("the error is %+v, want 4 pending, 1 running", d)
	}
}
