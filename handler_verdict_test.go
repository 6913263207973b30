package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/access"
)

func TestPostponeIsAnError(t *testing.T) {
	t.Parallel()
	must(t, bus.Postpone(time.Second, nil))
	err := fmt.Errorf("outer: %w", bus.Postpone(-time.Second, errNo))
	isError(t, err, errNo, "no")
	if !access.IsPostponed(err) || access.IsPostponed(errNo) {
		t.Errorf("%v is not taken for postponed, or %v is", err, errNo)
	}
}

// script is a handler that ends its calls one after the other as it says, the last one
// again and again, and notes their attempts.
type script struct {
	ends     []error
	attempts []int
}

func (s *script) handle(_ context.Context, m *bus.Msg[int]) error {
	s.attempts = append(s.attempts, m.Attempt)
	return s.ends[min(len(s.attempts), len(s.ends))-1]
}

// kinds counts the events that were told.
func kinds(ch <-chan event.Event) map[event.Kind][]int {
	attempts := make(map[event.Kind][]int)
	for len(ch) > 0 {
		e := <-ch
		attempts[e.Kind] = append(attempts[e.Kind], e.Attempt)
	}
	return attempts
}

// Postponed, a message waits here, parked, or with its key, and has as many attempts
// as before.
func TestPostponeIsNoAttempt(t *testing.T) {
	t.Parallel()
	soon, late := bus.Postpone(time.Second, errNo), bus.Postpone(10*time.Minute, errNo)
	for name, opts := range map[string][]bus.ConsumeOption{
		"without a key": nil,
		"with a key":    {bus.KeyBySubject()},
		"what is permanent too": {bus.Use(func(next bus.RawHandler) bus.RawHandler {
			return func(ctx context.Context, m *bus.RawMsg) error {
				err := next(ctx, m)
				if access.IsPostponed(err) {
					return bus.Permanent(err)
				}
				return err
			}
		})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
				s := &script{ends: []error{soon, soon, late, soon, errNo, late, soon, errNo}}
				consume(t, st, "d", "s", s.handle, append(opts, bus.Retry(bus.RetryPolicy{MaxAttempts: 2}))...)
				began := time.Now()
				storeRange(t, st, "s", 0, 1)
				pass(30 * time.Minute)
				if want := []int{1, 1, 1, 1, 1, 2, 2, 2}; !slices.Equal(s.attempts, want) {
					t.Errorf("the attempts were %v, want %v", s.attempts, want)
				}
				ls := deadLetters(t, st, bus.DeadFilter{})
				if len(ls) != 1 || ls[0].Attempt != 2 || ls[0].DeadAt.Sub(began) < 20*time.Minute {
					t.Errorf("the dead letters are %+v", ls)
				}
				told := kinds(events)
				if !slices.Equal(told[event.Retry], []int{1}) || !slices.Equal(told[event.DeadLetter], []int{2}) || len(told) != 2 {
					t.Errorf("told %v", told)
				}
				all := b.Stats()
				if s := all.Subscriptions[0]; s.Received != 8 || s.HandlerErrors != 2 || s.Postponed != 6 || s.Handled != 0 || all.Postponed != 6 {
					t.Errorf("the statistics are %+v", s)
				}
			}, record)
		})
	}
}

// With keys the messages behind wait, and those of other keys do not.
func TestPostponeKeepsTheOrder(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		var open atomic.Bool
		got := make(chan string, 100)
		consume(t, st, "d", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
			if m.Subject == "s.a" && !open.Load() {
				if m.Data != 0 {
					t.Errorf("%d before the first of its key", m.Data)
				}
				return bus.Postpone(time.Minute, errNo)
			}
			got <- fmt.Sprint(m.Subject, m.Data)
			return nil
		}, bus.KeyBySubject(), bus.Concurrency(4), bus.Retry(bus.RetryPolicy{MaxAttempts: 1}))
		storeRange(t, st, "s.a", 0, 3)
		storeRange(t, st, "s.b", 0, 1)
		pass(10 * time.Minute)
		open.Store(true)
		pass(10 * time.Minute)
		close(got)
		var all []string
		for s := range got {
			all = append(all, s)
		}
		if want := []string{"s.b0", "s.a0", "s.a1", "s.a2"}; !slices.Equal(all, want) {
			t.Errorf("got %v, want %v", all, want)
		}
	})
}

// For Health only calls that tried their message count.
func TestPostponedCallsAreNotPartOfTheFailures(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		later := 500
		calls, failing := 0, false
		consume(t, st, "d", "s", func(context.Context, *bus.Msg[int]) error {
			if calls++; calls <= later {
				return bus.Postpone(time.Millisecond, errNo)
			}
			if failing {
				return bus.Permanent(errNo)
			}
			return nil
		}, bus.Retry(bus.RetryPolicy{MaxAttempts: 1}))
		storeRange(t, st, "s", 0, 30)
		pass(10 * time.Minute)
		if r := b.Health(t.Context()); r.Status != health.Healthy {
			t.Errorf("500 calls were postponed: %+v", r)
		}
		failing = true
		storeRange(t, st, "s", 0, 40)
		pass(10 * time.Minute)
		r := b.Health(t.Context())
		if r.Status != health.Degraded {
			t.Fatalf("of 70 messages 40 failed: %+v", r)
		}
		hasText(t, errors.New(r.Problems[0].Reason), "40 of 70 handler calls")
	}, bus.WithLogger(silent()))
}

func TestPostponeByACoreHandler(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	must(t, second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error { return bus.Postpone(time.Hour, errNo) })))
	publishRange(t, b, "a", 0, 1)
	isError(t, nextEvent(t, events, event.HandlerFailed).Err, errNo)
	eventually(t, "it is an error", func() bool { s := b.Stats(); return s.HandlerErrors == 1 && s.Postponed == 0 })
}

// A member that is not the owner of a durable with keys postpones as the owner does.
func TestPostponeInAnotherProcess(t *testing.T) {
	t.Parallel()
	a, b, sa, sb := two(t)
	busy, free := make(chan struct{}), make(chan struct{})
	opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.Retry(bus.RetryPolicy{MaxAttempts: 1})}
	storeRange(t, sa, "s.first", 0, 1)
	consume(t, sa, "d", "s.*", func(context.Context, *bus.Msg[int]) error {
		close(busy)
		<-free
		return nil
	}, opts...)
	receive(t, busy)
	var calls atomic.Int64
	consume(t, sb, "d", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Attempt != 1 {
			t.Errorf("attempt %d", m.Attempt)
		}
		if calls.Add(1) <= 20 {
			return bus.Postpone(time.Millisecond, errNo)
		}
		return nil
	}, opts...)
	storeRange(t, sa, "s.next", 0, 5)
	eventually(t, "the other one has handled them", func() bool { return calls.Load() == 25 })
	close(free)
	eventually(t, "all is done", func() bool {
		info := consumerInfo(t, a, "S", "d")
		return info.NumAckPending+int(info.NumPending) == 0
	})
	if n, err := sa.DeadCount(t.Context(), bus.DeadFilter{}); n != 0 || err != nil {
		t.Errorf("%d dead letters, %v", n, err)
	}
	if s := b.Stats(); s.Postponed != 20 || s.HandlerErrors != 0 {
		t.Errorf("the statistics are %+v", s)
	}
}

// What the end of the bus keeps from being tried, or cuts off, comes again as it was,
// also with its last attempt.
func TestTheEndOfTheBusIsNoAttempt(t *testing.T) {
	t.Parallel()
	fail := errors.New("cut off")
	for name, tc := range map[string]struct {
		last func(ctx context.Context) error // how the last call ends, once the bus stops
		stop func(*bus.Bus)
		opts []bus.ConsumeOption
		late bool // what is given back may not arrive: it comes again after AckWait
	}{
		"postponed":            {last: func(ctx context.Context) error { <-bus.Stopping(ctx); return bus.Postpone(time.Second, fail) }},
		"postponed, with keys": {last: func(ctx context.Context) error { <-bus.Stopping(ctx); return bus.Postpone(0, fail) }, opts: []bus.ConsumeOption{bus.KeyBySubject()}},
		"cut off":              {last: func(ctx context.Context) error { <-ctx.Done(); return fail }},
		"cut off, with keys":   {last: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, opts: []bus.ConsumeOption{bus.KeyBySubject()}},
		"cut off, permanent":   {last: func(ctx context.Context) error { <-ctx.Done(); return bus.Permanent(ctx.Err()) }},
		"cut off by Shutdown's caller, who waits for nothing": {late: true, last: func(ctx context.Context) error { <-ctx.Done(); return fail }, stop: func(b *bus.Bus) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Second, cancel)
			_ = b.Shutdown(ctx)
		}},
	} {
		for _, last := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, attempt %d", name, last), func(t *testing.T) {
				t.Parallel()
				record, events := recordEvents()
				bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
					dir := bus.WithStoreDir(t.TempDir() + "/store")
					b := ownBus(t, dir, record, bus.WithDrainTimeout(10*time.Second))
					st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
					opts := append(tc.opts, bus.Retry(bus.RetryPolicy{MaxAttempts: last, MinBackoff: time.Second}))
					storeRange(t, st, "s", 0, 1)
					consume(t, st, "d", "s", func(ctx context.Context, m *bus.Msg[int]) error {
						if m.Attempt < last {
							return errNo
						}
						return tc.last(ctx)
					}, opts...)
					pass(time.Minute)
					if tc.stop != nil {
						tc.stop(b)
					} else {
						_ = b.Close()
					}
					synctest.Wait()
					for kind, attempts := range kinds(events) {
						if kind == event.DeadLetter || kind == event.DeadLetterFailed || kind == event.Retry && len(attempts) >= last {
							t.Errorf("told %s of the attempts %v", kind, attempts)
						}
					}
					b = ownBus(t, dir)
					st, err := b.LookupStream(t.Context(), "S")
					must(t, err)
					s := &script{ends: []error{nil}}
					consume(t, st, "d", "s", s.handle, opts...)
					if pass(10 * time.Second); !tc.late && !slices.Equal(s.attempts, []int{last}) { // AckWait is longer
						t.Errorf("the attempts were %v, want %d", s.attempts, last)
					}
					if pass(time.Minute); len(s.attempts) == 0 {
						t.Error("it did not come again")
					}
					if n, err := st.DeadCount(t.Context(), bus.DeadFilter{}); n != 0 || err != nil {
						t.Errorf("%d dead letters, %v", n, err)
					}
					must(t, b.Close())
				})
			})
		}
	}
}

// A call that returns nil after its context ended is done.
func TestCutOffAndDoneAllTheSame(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
		dir := bus.WithStoreDir(t.TempDir() + "/store")
		b := ownBus(t, dir, bus.WithDrainTimeout(10*time.Second))
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		storeRange(t, st, "s", 0, 1)
		consume(t, st, "d", "s", func(ctx context.Context, _ *bus.Msg[int]) error { <-ctx.Done(); return nil })
		synctest.Wait()
		_ = b.Close()
		b = ownBus(t, dir)
		st, err := b.LookupStream(t.Context(), "S")
		must(t, err)
		s := &script{ends: []error{nil}}
		consume(t, st, "d", "s", s.handle)
		pass(time.Hour)
		if len(s.attempts) != 0 {
			t.Errorf("it came again: %v", s.attempts)
		}
		must(t, b.Close())
	})
}

// A time that the server cannot count to is as good as never, and not now.
func TestPostponeForEver(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 1)
		var calls atomic.Int64
		consume(t, st, "d", "S", func(context.Context, *bus.Msg[int]) error {
			calls.Add(1)
			return bus.Postpone(math.MaxInt64, errNo)
		})
		if pass(time.Minute); calls.Load() != 1 {
			t.Errorf("%d calls in a minute", calls.Load())
		}
	}, bus.WithLogger(silent()))
}
