package middleware_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/middleware"
)

func TestDeduplicateRefusesBadArguments(t *testing.T) {
	t.Parallel()
	for _, window := range []time.Duration{0, -time.Second} {
		refused(t, "Deduplicate", "window")(middleware.Deduplicate(window, 1))
	}
	for _, n := range []int{0, -1} {
		refused(t, "Deduplicate", "maxEntries")(middleware.Deduplicate(time.Minute, n))
	}
}

func TestDeduplicateDropsWhatWasHandled(t *testing.T) {
	t.Parallel()
	type step struct {
		subject, id string
		after       time.Duration // how long after the step before
		err         error
		panics      bool
		called      bool
	}
	tests := map[string]struct {
		maxEntries int
		steps      []step
	}{
		"same subject and ID": {9, []step{{subject: "c.x", id: "1", called: true}, {subject: "c.x", id: "1"}, {subject: "c.x", id: "1"}}},
		"other ID":            {9, []step{{subject: "c.x", id: "1", called: true}, {subject: "c.x", id: "2", called: true}}},
		"other subject":       {9, []step{{subject: "c.x", id: "1", called: true}, {subject: "c.y", id: "1", called: true}}},
		"no ID":               {9, []step{{subject: "c.x", called: true}, {subject: "c.x", called: true}}},
		"failed":              {9, []step{{subject: "c.x", id: "1", err: errHandler, called: true}, {subject: "c.x", id: "1", called: true}, {subject: "c.x", id: "1"}}},
		"panicked":            {9, []step{{subject: "c.x", id: "1", panics: true, called: true}, {subject: "c.x", id: "1", called: true}, {subject: "c.x", id: "1"}}},
		"within the window":   {9, []step{{subject: "c.x", id: "1", called: true}, {subject: "c.x", id: "1", after: time.Minute - 1}}},
		"after the window":    {9, []step{{subject: "c.x", id: "1", called: true}, {subject: "c.x", id: "1", after: time.Minute, called: true}, {subject: "c.x", id: "1"}}},
		"a repeat does not lengthen the window": {9, []step{{subject: "c.x", id: "1", called: true},
			{subject: "c.x", id: "1", after: 40 * time.Second}, {subject: "c.x", id: "1", after: 40 * time.Second, called: true}}},
		"the oldest is forgotten": {2, []step{{subject: "c.x", id: "1", called: true}, {subject: "c.x", id: "2", called: true}, {subject: "c.x", id: "3", called: true},
			{subject: "c.x", id: "3"}, {subject: "c.x", id: "2"}, {subject: "c.x", id: "1", called: true}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var now step
				calls := 0
				h := must(t)(middleware.Deduplicate(time.Minute, test.maxEntries))(func(context.Context, *bus.RawMsg) error {
					calls++
					if now.panics {
						panic("boom")
					}
					return now.err
				})
				for i, s := range test.steps {
					time.Sleep(s.after)
					now, calls = s, 0
					m := &bus.RawMsg{Subject: s.subject, ID: s.id}
					if s.panics {
						if v := panicValue(h, m); v != "boom" {
							t.Errorf("step %d: recovered %v", i+1, v)
						}
					} else if err := h(t.Context(), m); err != s.err {
						t.Errorf("step %d: got %v, want %v", i+1, err, s.err)
					}
					if called := calls == 1; called != s.called {
						t.Errorf("step %d: called %t, want %t", i+1, called, s.called)
					}
				}
			})
		})
	}
}

// A copy must not count as handled before its first one is: were the first to
// fail, both would be gone.
func TestDeduplicateOfACopyMeanwhile(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		first  func() error
		second error // what the copy returns
		calls  int
	}{
		"the first succeeds": {func() error { return nil }, nil, 1},
		"the first fails":    {func() error { return errHandler }, nil, 2},
		"the first panics":   {func() error { panic("boom") }, nil, 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				var calls atomic.Int64
				h := must(t)(middleware.Deduplicate(time.Minute, 9))(func(context.Context, *bus.RawMsg) error {
					if calls.Add(1) == 1 {
						<-release
						return test.first()
					}
					return nil
				})
				m := &bus.RawMsg{Subject: "c.x", ID: "1"}
				go panicValue(h, m)
				synctest.Wait()
				second := make(chan error, 1)
				go func() { second <- h(t.Context(), m) }()
				synctest.Wait()
				if len(second) > 0 || calls.Load() != 1 {
					t.Errorf("the copy did not wait: %d calls", calls.Load())
				}
				close(release)
				if err := <-second; err != test.second || calls.Load() != int64(test.calls) {
					t.Errorf("the copy returned %v after %d calls, want %v and %d", err, calls.Load(), test.second, test.calls)
				}
			})
		})
	}
}

func TestDeduplicateWaitsNoLongerThanTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := must(t)(middleware.Deduplicate(time.Minute, 9))(func(context.Context, *bus.RawMsg) error {
			<-release
			return nil
		})
		m := &bus.RawMsg{Subject: "c.x", ID: "1"}
		go func() { _ = h(t.Context(), m) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h(ctx, m); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error: an error, since the first may still fail", err)
		}
		close(release)
	})
}

func TestDeduplicateConcurrently(t *testing.T) {
	t.Parallel()
	const ids, copies = 50, 8
	var mu sync.Mutex
	running, succeeded, calls := make(map[string]bool), make(map[string]int), make(map[string]int)
	h := must(t)(middleware.Deduplicate(time.Hour, ids))(func(_ context.Context, m *bus.RawMsg) error {
		mu.Lock()
		if running[m.ID] {
			t.Errorf("%s twice at once", m.ID)
		}
		running[m.ID] = true
		calls[m.ID]++
		fail := calls[m.ID] < 3
		mu.Unlock()
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			running[m.ID] = false
			if !fail {
				succeeded[m.ID]++
			}
		}()
		if fail {
			return errHandler
		}
		return nil
	})
	var senders sync.WaitGroup
	for range copies {
		senders.Go(func() {
			for i := range ids {
				m := &bus.RawMsg{Subject: "c.x", ID: strconv.Itoa(i)}
				for h(context.Background(), m) != nil { // as Consume does
				}
			}
		})
	}
	senders.Wait()
	for i := range ids {
		if id := strconv.Itoa(i); succeeded[id] != 1 {
			t.Errorf("%s succeeded %d times", id, succeeded[id])
		}
	}
}

// Two subscriptions each get their copy of a message: it is no duplicate.
func TestDeduplicateForAWholeBus(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithMiddleware(must(t)(middleware.Deduplicate(time.Minute, 9))))
	got := make(chan string, 9)
	for _, name := range []string{"one", "two"} {
		_, err := bus.Subscribe(b, "c.>", func(_ context.Context, m *bus.Msg[string]) error {
			got <- name + " " + m.Data
			return nil
		})
		check(t, err)
	}
	for _, id := range []string{"a", "a", "b"} {
		check(t, bus.Publish(t.Context(), b, "c.x", id, bus.MsgID(id)))
	}
	check(t, bus.Publish(t.Context(), b, "c.x", "end"))
	all := make([]string, 6)
	for i := range all {
		all[i] = <-got
	}
	slices.Sort(all)
	if want := []string{"one a", "one b", "one end", "two a", "two b", "two end"}; !slices.Equal(all, want) {
		t.Errorf("handled %v, want %v", all, want)
	}
}

// The server sends everything again, as after a crash that lost acknowledgements.
func TestDeduplicateOfARedelivery(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := stream(t, b)
		store(t, st, 3)
		var calls, seen []int
		sees := func(next bus.RawHandler) bus.RawHandler {
			return func(ctx context.Context, m *bus.RawMsg) error {
				seen = append(seen, int(m.Sequence))
				return next(ctx, m)
			}
		}
		_, err := bus.Consume(t.Context(), st, "c", "s.>", func(_ context.Context, m *bus.Msg[int]) error {
			calls = append(calls, m.Data)
			return nil
		}, bus.Use(sees, must(t)(middleware.Deduplicate(time.Hour, 9))))
		check(t, err)
		pass(time.Second)
		js := b.JetStream()
		_, err = js.ResetConsumerToSequence(t.Context(), "S", "c", 1)
		check(t, err)
		pass(time.Minute)
		if want := []int{1, 2, 3, 1, 2, 3}; !slices.Equal(seen, want) {
			t.Errorf("delivered %v, want %v", seen, want)
		}
		if want := []int{0, 1, 2}; !slices.Equal(calls, want) {
			t.Errorf("handled %v, want %v", calls, want)
		}
		con, err := js.Consumer(t.Context(), "S", "c")
		check(t, err)
		if info := con.CachedInfo(); info.NumAckPending != 0 {
			t.Errorf("%d unacknowledged, want none: a dropped message is done", info.NumAckPending)
		}
	}, quiet)
}
