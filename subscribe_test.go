package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/stats"
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
func subStats(t testing.TB, b *bus.Bus, subject, group string) stats.Subscription {
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
		d := asError[*bus.DrainError](t, b.Shutdown(ctx), `"a"`, "2 messages unhandled", "1 handler running")
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
