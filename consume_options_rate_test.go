package bus_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/stats"
)

// Handler calls begin at the rate, evenly, also those of several at once and of
// batches; what waits is kept alive, and given back at once in the end.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		begin func(t *testing.T, st *bus.Stream, note func(n int), opts ...bus.ConsumeOption) *bus.Consumer
		opts  []bus.ConsumeOption
	}{
		{"one by one", consumeNoting, nil},
		{"side by side", consumeNoting, []bus.ConsumeOption{bus.Concurrency(8)}},
		{"with keys", consumeNoting, []bus.ConsumeOption{bus.Concurrency(8), bus.KeyBySubject()}},
		{"batches", func(t *testing.T, st *bus.Stream, note func(n int), opts ...bus.ConsumeOption) *bus.Consumer {
			return consumeBatch(t, st, "d", "S", func(_ context.Context, ms []*bus.Msg[int]) error { note(len(ms)); return nil }, opts...)
		}, []bus.ConsumeOption{bus.BatchSize(5), bus.Concurrency(2)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				storeRange(t, st, "S", 0, 40)
				calls := make(chan int, 80)
				began := time.Now()
				con := tc.begin(t, st, func(n int) {
					for range n {
						calls <- n
					}
				}, append(tc.opts, bus.RateLimit(6, time.Minute), bus.AckWait(2*time.Second))...)
				for _, after := range []time.Duration{time.Second, time.Minute, 2 * time.Minute} {
					pass(time.Until(began.Add(after)))
					if n, most := len(calls), 1+int(after/(10*time.Second))+4; n > most || n < most-9 {
						t.Errorf("after %v %d messages were handled, want about %d", after, n, most-4)
					}
				}
				if s := b.Stats().Subscriptions[0]; s.InFlight != 0 || s.Pending == 0 || s.Redelivered != 0 {
					t.Errorf("the statistics are %+v", s)
				}
				stopped := time.Now()
				must(t, con.Drain(t.Context()))
				if took := time.Since(stopped); took > 100*time.Millisecond {
					t.Errorf("Drain took %v", took)
				}
				n := len(calls)
				var rest ledger
				consume(t, st, "d", "S", rest.handle)
				pass(time.Minute)
				if n+rest.distinct() != 40 {
					t.Errorf("%d and %d messages were handled", n, rest.distinct())
				}
			})
		})
	}
}

func consumeNoting(t *testing.T, st *bus.Stream, note func(n int), opts ...bus.ConsumeOption) *bus.Consumer {
	t.Helper()
	return consume(t, st, "d", "S", func(context.Context, *bus.Msg[int]) error { note(1); return nil }, opts...)
}

func TestRateLimitMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	for _, o := range []bus.ConsumeOption{bus.RateLimit(0, time.Second), bus.RateLimit(-1, time.Second), bus.RateLimit(1, 0), bus.RateLimit(10, 5)} {
		asError[*bus.OptionError](t, second(bus.Consume(t.Context(), st, "d", "S", ignore[int], o)), "RateLimit", "more than zero")
	}
}

// Stop gives back what was not begun and does not wait; what runs may still finish,
// and is done then.
func TestConsumerStop(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 20)
		var got ledger
		con := consume(t, st, "d", "S", func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Sequence == 5 {
				time.Sleep(10 * time.Second) // in the bubble: virtual time
			}
			return got.handle(ctx, m)
		})
		synctest.Wait()
		began := time.Now()
		con.Stop()
		con.Stop()
		receive(t, con.Done())
		must(t, con.Drain(t.Context()))
		must(t, con.Err())
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
		if n := len(b.Stats().Subscriptions); n != 0 {
			t.Errorf("%d consumers are listed", n)
		}
		var rest ledger
		consume(t, st, "d", "S", rest.handle)
		pass(time.Hour)
		got.mustBeOnce(t, 5)
		if all := slices.Sorted(slices.Values(rest.sequences())); !slices.Equal(all, upTo(20)[5:]) {
			t.Errorf("then %v came", all)
		}
		mustBeAcknowledged(t, b, "S", "d")
	})
}

func TestSubscriptionStop(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, began, release := held[int](10)
	sub, err := bus.Subscribe(b, "a", h)
	must(t, err)
	publishRange(t, b, "a", 0, 5)
	receive(t, began)
	must(t, sub.Err())
	sub.Stop()
	sub.Stop()
	receive(t, sub.Done())
	must(t, sub.Drain(t.Context()))
	close(release)
	must(t, sub.Err())
	must(t, b.Flush(t.Context()))
	nothing(t, began)
	var none *bus.Subscription
	none.Stop()
	must(t, none.Err())
}

// A subscription whose connection is gone for good says so.
func TestSubscriptionErr(t *testing.T) {
	t.Parallel()
	b := ownBus(t, bus.WithLogger(silent()))
	sub, err := bus.Subscribe(b, "a", ignore[int])
	must(t, err)
	must(t, sub.Err())
	b.Conn().Close()
	isError(t, sub.Err(), bus.ErrClosed, "Subscribe", `"a"`)
	_ = b.Close()
	must(t, sub.Err())
}

// A handler that does not return is seen in Stats and Health, and named by Drain.
func TestHandlerThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 3)
		var got ledger
		release := make(chan struct{})
		con := consume(t, st, "d", "S", func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Sequence == 2 {
				<-release // whatever becomes of ctx
			}
			return got.handle(ctx, m)
		}, bus.HandlerTimeout(time.Second))
		pass(4 * time.Minute)
		healthy(t, b)
		if l := b.Stats().Subscriptions[0].Longest; l != (stats.Call{Subject: "S", Sequence: 2, Duration: 4 * time.Minute}) {
			t.Errorf("the longest is %+v", l)
		}
		pass(2 * time.Minute)
		unwell(t, b.Health(t.Context()), health.Degraded, "consumer", "d of stream S", "a handler has not returned: message 2 on S for 6m0s")
		e := asError[*bus.DrainError](t, con.Drain(withDeadline(t, time.Second)), "1 handler running (message 2 on S for 6m1s)", "watch their context")
		if e.Longest.Sequence != 2 || e.Running != 1 {
			t.Errorf("got %+v", e)
		}
		close(release)
		pass(time.Minute)
		var rest ledger
		consume(t, st, "d", "S", rest.handle)
		pass(time.Minute)
		got.mustBeOnce(t, 2)
		if !slices.Equal(rest.sequences(), []uint64{3}) {
			t.Errorf("then %v came", rest.sequences())
		}
		mustBeAcknowledged(t, b, "S", "d")
	}, bus.WithLogger(silent()))
}
