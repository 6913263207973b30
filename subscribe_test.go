package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

func TestQueueGroupSharesTheWork(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort())
	other := connectTo(t, b)
	const n = 300
	var seen sync.Map
	var left atomic.Int64
	left.Store(n)
	done := make(chan struct{})
	counts := make([]atomic.Int64, 3)
	for i := range counts {
		on := b
		if i == 2 {
			on = other
		}
		_, err := bus.Subscribe(on, "work.*", func(_ context.Context, m *bus.Msg[int]) error {
			if _, twice := seen.LoadOrStore(m.Data, i); twice {
				t.Errorf("%d came twice", m.Data)
			}
			counts[i].Add(1)
			if left.Add(-1) == 0 {
				close(done)
			}
			return nil
		}, bus.Queue("workers"))
		must(t, err)
	}
	everything, got := collect[int](n)
	_, err := bus.Subscribe(b, "work.*", everything) // outside the group
	must(t, err)
	for i := range n {
		must(t, bus.Publish(t.Context(), b, bus.Subject[int]("work.*").At(strconv.Itoa(i%7)), i))
	}
	receive(t, done)
	for i := range counts {
		if counts[i].Load() == 0 {
			t.Errorf("member %d got nothing", i)
		}
	}
	for i := range n {
		if v := receive(t, got); v != i {
			t.Fatalf("outside the group: got %d, want %d", v, i)
		}
	}
}

// Two groups on one subject each get everything.
func TestQueueGroupsAreApart(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	var got [2]<-chan int
	for i := range got {
		var h bus.Handler[int]
		h, got[i] = collect[int](10)
		_, err := bus.Subscribe(b, "a", h, bus.Queue("group-"+strconv.Itoa(i)))
		must(t, err)
	}
	publishRange(t, b, "a", 0, 5)
	for _, ch := range got {
		for want := range 5 {
			if v := receive(t, ch); v != want {
				t.Errorf("got %d, want %d", v, want)
			}
		}
	}
}

// Concurrency n means n at once, and not one more.
func TestConcurrencyIsExact(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 7} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				var now, most atomic.Int64
				_, err := bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error {
					most.Store(max(most.Load(), now.Add(1)))
					time.Sleep(time.Second)
					now.Add(-1)
					return nil
				}, bus.Concurrency(n))
				must(t, err)
				publishRange(t, b, "a", 0, 10*n)
				synctest.Wait()
				if now.Load() != int64(n) {
					t.Errorf("%d run at once, want %d", now.Load(), n)
				}
				if s := b.Stats(); s.InFlight != n || s.Subscriptions[0].Pending != 9*n {
					t.Errorf("in flight %d, pending %d; want %d, %d", s.InFlight, s.Subscriptions[0].Pending, n, 9*n)
				}
				began := time.Now()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if took := time.Since(began); most.Load() != int64(n) || now.Load() != 0 || took != 10*time.Second {
					t.Errorf("most %d, left %d after %v", most.Load(), now.Load(), took)
				}
			})
		})
	}
}

// A slow handler of one subscription holds up nobody else.
func TestSubscriptionsAreIndependent(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	slow, began, release := held[int](10)
	_, err := bus.Subscribe(b, "a", slow)
	must(t, err)
	fast, got := collect[int](10)
	_, err = bus.Subscribe(b, "a", fast)
	must(t, err)
	publishRange(t, b, "a", 0, 5)
	receive(t, began)
	for want := range 5 {
		if v := receive(t, got); v != want {
			t.Errorf("got %d, want %d", v, want)
		}
	}
	nothing(t, began)
	close(release)
}

// What does not fit is dropped, counted and reported, to nobody else's harm.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		limits  bus.SubscribeOption
		allowed int // messages, the one that is handled included
	}{
		{"messages", bus.PendingLimits(10, -1), 10},
		{"bytes", bus.PendingLimits(-1, 1000), 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			b := bustest.New(t, record)
			slow, began, release := held[[]byte](100)
			sub, err := bus.Subscribe(b, "a", slow, tc.limits, bus.Queue("slow"))
			must(t, err)
			fast, got := collect[[]byte](100)
			_, err = bus.Subscribe(b, "a", fast)
			must(t, err)
			payload := make([]byte, 92) // and the subject, reply and header count for a few bytes
			for range 50 {
				must(t, bus.Publish(t.Context(), b, "a", payload))
			}
			must(t, b.Flush(t.Context()))
			receive(t, began)
			for range 50 {
				receive(t, got)
			}
			e := nextEvent(t, events, event.SlowConsumer)
			hasText(t, e.Err, `"a"`, "too slow", "PendingLimits")
			if e.Dropped < 1 || e.Subject != "a" {
				t.Errorf("the event is %+v", e)
			}
			st := subStats(t, b, "a", "slow")
			if handled := 50 - int(st.Dropped); handled < tc.allowed || handled > tc.allowed+1 {
				t.Errorf("%d of 50 dropped with room for %d", st.Dropped, tc.allowed)
			}
			close(release)
			must(t, sub.Drain(t.Context()))
			s := b.Stats()
			if s.Dropped != st.Dropped || s.Received != 100-st.Dropped {
				t.Errorf("in all: dropped %d, received %d; the subscription dropped %d", s.Dropped, s.Received, st.Dropped)
			}
		})
	}
}

// subStats returns the statistics of the live subscription to subject in the group.
func subStats(t testing.TB, b *bus.Bus, subject, group string) bus.SubscriptionStats {
	t.Helper()
	for _, s := range b.Stats().Subscriptions {
		if s.Subject == subject && s.Queue == group {
			return s
		}
	}
	t.Fatalf("no statistics of %q in the group %q", subject, group)
	panic("not reached")
}

// Handler errors, panics and undecodable messages are events; the next message
// is handled all the same.
func TestHandlerFailuresAreEvents(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	boom := errors.New("boom")
	h, got := collect[int](10)
	_, err := bus.Subscribe(b, "a.*", func(ctx context.Context, m *bus.Msg[int]) error {
		switch m.Data {
		case 1:
			return boom
		case 2:
			panic(fmt.Sprintf("at %d", m.Data))
		case 3:
			panic(boom)
		case 4:
			var none map[string]int
			none["x"] = 1
		}
		return h(ctx, m)
	})
	must(t, err)
	publishRange(t, b, "a.b", 0, 6)
	must(t, bus.Publish(t.Context(), b, "a.c", "no number"))
	publishRange(t, b, "a.b", 6, 7)
	for _, want := range []int{0, 5, 6} {
		if v := receive(t, got); v != want {
			t.Errorf("got %d, want %d", v, want)
		}
	}
	isError(t, nextEvent(t, events, event.HandlerFailed).Err, boom)
	p := asError[*bus.PanicError](t, nextEvent(t, events, event.HandlerFailed).Err, "panicked: at 2")
	if p.Value != "at 2" {
		t.Errorf("the panic is %+v", p)
	}
	e := nextEvent(t, events, event.HandlerFailed)
	asError[*bus.PanicError](t, e.Err)
	isError(t, e.Err, boom) // an error that was thrown stays one
	if e.Subject != "a.b" || e.Time.IsZero() {
		t.Errorf("the event is %+v", e)
	}
	p = asError[*bus.PanicError](t, nextEvent(t, events, event.HandlerFailed).Err, "nil map")
	if !bytes.Contains(p.Stack, []byte("TestHandlerFailuresAreEvents")) {
		t.Errorf("the stack does not show the handler:\n%s", p.Stack)
	}
	e = nextEvent(t, events, event.HandlerFailed)
	if c := asError[*bus.CodecError](t, e.Err, `"a.c"`, "decode", "application/json"); c.Op != "decode" || e.Subject != "a.c" {
		t.Errorf("the event is %+v", e)
	}
	eventually(t, "the last handler has returned", func() bool { return b.Stats().Handled == 3 })
	s := b.Stats()
	if s.Received != 8 || s.Handled != 3 || s.HandlerErrors != 5 || s.Subscriptions[0].Panics != 3 || s.Events != 5 {
		t.Errorf("the statistics are %+v", s)
	}
}

func TestHandlerTimeout(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		_, err := bus.Subscribe(b, "a", func(ctx context.Context, m *bus.Msg[int]) error {
			at, ok := ctx.Deadline()
			if !ok || time.Until(at) != time.Minute {
				t.Errorf("the deadline is %v, %t", at, ok)
			}
			<-ctx.Done()
			time.Sleep(10 * time.Minute) // it ignores the deadline, and is waited for
			return ctx.Err()
		}, bus.HandlerTimeout(time.Minute))
		must(t, err)
		_, err = bus.Subscribe(b, "a", func(ctx context.Context, m *bus.Msg[int]) error {
			if _, ok := ctx.Deadline(); ok {
				t.Error("there is a deadline that nobody asked for")
			}
			return nil
		})
		must(t, err)
		publishRange(t, b, "a", 0, 2)
		time.Sleep(22 * time.Minute)
		synctest.Wait()
		for range 2 {
			isError(t, nextEvent(t, events, event.HandlerFailed).Err, context.DeadlineExceeded)
		}
	}, record)
}

// Stopping tells of the end at once; the handler's context ends only when the
// drain timeout is used up, but for the second that is kept for what comes after
// the handlers.
func TestStoppingAndTheEndOfTheHandlersContext(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
		b := ownBus(t)
		began := time.Now()
		var told, ended time.Duration
		cause := make(chan error, 1)
		_, err := bus.Subscribe(b, "a", func(ctx context.Context, m *bus.Msg[int]) error {
			<-bus.Stopping(ctx)
			told = time.Since(began)
			<-ctx.Done()
			ended = time.Since(began)
			cause <- context.Cause(ctx)
			return nil
		})
		must(t, err)
		publishRange(t, b, "a", 0, 3)
		synctest.Wait()
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d := asError[*bus.DrainError](t, b.Shutdown(ctx), `"a"`, "2 messages unhandled", "1 handlers running")
		if d.Pending != 2 || d.Running != 1 || d.Subject != "a" {
			t.Errorf("the error is %+v", d)
		}
		isError(t, d, context.DeadlineExceeded)
		hasText(t, <-cause, "drain timeout")
		if told != time.Second || ended != time.Minute {
			t.Errorf("told after %v, ended after %v; want 1s and 1m", told, ended)
		}
	})
	if bus.Stopping(t.Context()) != nil {
		t.Error("Stopping of a foreign context is not nil")
	}
}

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
			sub, err := bus.Subscribe(b, "a", func(ctx context.Context, m *bus.Msg[int]) error {
				defer handled.Add(1)
				return h(ctx, m)
			}, bus.Concurrency(concurrency))
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
			sub, err := bus.Subscribe(b, "a", func(ctx context.Context, m *bus.Msg[int]) error {
				defer handled.Add(1)
				return h(ctx, m)
			}, bus.Concurrency(concurrency))
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

// Subscriptions live on when the connection is lost and comes back, with their
// queue groups and their drain.
func TestSubscriptionsSurviveAReconnect(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	h, got := collect[int](100)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	member, shared := collect[int](100)
	_, err = bus.Subscribe(b, "a", member, bus.Queue("g"))
	must(t, err)
	blocked, began, release := held[int](100)
	draining, err := bus.Subscribe(b, "a", blocked)
	must(t, err)
	publishRange(t, b, "a", 0, 2)
	receive(t, began)
	result := make(chan error, 1)
	go func() { result <- draining.Drain(t.Context()) }()
	for i := 2; i < 5; i++ {
		must(t, b.Conn().ForceReconnect())
		nextEvent(t, events, event.Disconnected)
		e := nextEvent(t, events, event.Reconnected)
		if e.Time.IsZero() {
			t.Error("the event has no time")
		}
		publishRange(t, b, "a", i, i+1)
	}
	close(release)
	must(t, receive(t, result))
	for want := range 5 {
		if v := receive(t, got); v != want {
			t.Errorf("got %d, want %d", v, want)
		}
		if v := receive(t, shared); v != want {
			t.Errorf("the member got %d, want %d", v, want)
		}
	}
	s := b.Stats()
	if s.Disconnects != 3 || s.Reconnects != 3 || s.Dropped != 0 {
		t.Errorf("disconnects %d, reconnects %d, dropped %d; want 3, 3, 0", s.Disconnects, s.Reconnects, s.Dropped)
	}
}

// What had arrived is handled although the connection is lost in the middle of
// the drain, and although it does not come back.
func TestDrainWhileDisconnected(t *testing.T) {
	t.Parallel()
	t.Run("lost before", func(t *testing.T) {
		t.Parallel()
		server := bustest.New(t, anyPort())
		record, events := recordEvents()
		b := connectTo(t, server, record)
		h, began, release := held[int](100)
		var handled atomic.Int64
		sub, err := bus.Subscribe(b, "a", func(ctx context.Context, m *bus.Msg[int]) error {
			defer handled.Add(1)
			return h(ctx, m)
		})
		must(t, err)
		publishRange(t, server, "a", 0, 20)
		must(t, b.Flush(t.Context()))
		receive(t, began)
		must(t, server.Close())
		nextEvent(t, events, event.Disconnected)
		close(release)
		start := time.Now()
		must(t, sub.Drain(t.Context()))
		if n := handled.Load(); n != 20 {
			t.Errorf("%d handled, want 20", n)
		}
		_, err = b.Conn().QueueSubscribe("x", "", nil)
		if err == nil {
			t.Error("subscribed without a callback")
		}
		must(t, b.Close())
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("lost meanwhile", func(t *testing.T) {
		t.Parallel()
		server := newFakeServer(t)
		b, err := bus.Connect(t.Context(), server.url(), bus.WithLogger(silent()))
		must(t, err)
		t.Cleanup(func() { _ = b.Close() })
		h, began, release := held[int](100)
		var handled atomic.Int64
		server.answerPings()
		sub, err := bus.Subscribe(b, "a", func(ctx context.Context, m *bus.Msg[int]) error {
			defer handled.Add(1)
			return h(ctx, m)
		})
		must(t, err)
		server.ignorePings()
		sid := subscriptionID(server.expect("SUB a "))
		for i := range 3 {
			server.send(fmt.Sprintf("MSG a %s 1\r\n%d\r\n", sid, i))
		}
		receive(t, began)
		eventually(t, "all have arrived", func() bool { return b.Stats().Subscriptions[0].Pending == 2 })
		result := make(chan error, 1)
		go func() { result <- sub.Drain(t.Context()) }()
		server.expect("UNSUB " + sid)
		server.expect("PING")
		server.cut()
		close(release)
		must(t, receive(t, result))
		if n := handled.Load(); n != 3 {
			t.Errorf("%d handled, want 3", n)
		}
		server.answerPings()
	})
}

// subscriptionID is the last word of a SUB line.
func subscriptionID(line string) string { return line[strings.LastIndexByte(line, ' ')+1:] }

// Close ends a bus with a subscription at once although its server has gone.
func TestCloseWhileDisconnected(t *testing.T) {
	t.Parallel()
	server := bustest.New(t, anyPort())
	record, events := recordEvents()
	b := connectTo(t, server, record)
	_, err := bus.Subscribe(b, "a", ignore[int])
	must(t, err)
	_, err = bus.Respond(b, "b", func(context.Context, *bus.Msg[int]) (int, error) { return 0, nil })
	must(t, err)
	must(t, server.Close())
	nextEvent(t, events, event.Disconnected)
	start := time.Now()
	must(t, b.Close())
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A flush that the loss of the connection ends says so; the bus is not closed.
func TestFlushWhileTheConnectionIsLost(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	b, err := bus.Connect(t.Context(), server.url(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	result := make(chan error, 1)
	go func() { result <- b.Flush(t.Context()) }()
	server.expect("PING")
	server.cut()
	err = receive(t, result)
	isError(t, err, bus.ErrDisconnected)
	if errors.Is(err, bus.ErrClosed) {
		t.Errorf("it says that the bus is closed: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	server.ignorePings()
	isError(t, b.Flush(ctx), bus.ErrTimeout)
	server.answerPings()
}

func TestManySubscriptionsComeAndGo(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 25 {
				s := bus.Subject[int](fmt.Sprintf("come.%d.%d", w, i))
				h, got := collect[int](1)
				sub, err := bus.Subscribe(b, s, h, bus.Concurrency(1+i%3))
				if err != nil {
					t.Error(err)
					return
				}
				if err := bus.Publish(t.Context(), b, s, i); err != nil {
					t.Error(err)
				}
				if v := receive(t, got); v != i {
					t.Errorf("got %d, want %d", v, i)
				}
				end := []func() error{sub.Unsubscribe, func() error { return sub.Drain(t.Context()) }}[i%2]
				if err := end(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s := b.Stats()
	if s.Handled != 200 || len(s.Subscriptions) != 0 {
		t.Errorf("%d handled, %d subscriptions left; want 200, 0", s.Handled, len(s.Subscriptions))
	}
}
