package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

// numbered is a message that can be told from others.
func numbered(n uint64) wire.Delivery { return wire.Delivery{Stored: &wire.Stored{Sequence: n}} }

// counts is how often each message was run.
type counts struct {
	mu  sync.Mutex
	ran map[uint64]int
}

func (c *counts) run(d wire.Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ran == nil {
		c.ran = make(map[uint64]int)
	}
	c.ran[d.Stored.Sequence]++
}

func (c *counts) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, k := range c.ran {
		n += k
	}
	return n
}

// pushN pushes messages of which the i-th has the sequence i+1.
func pushN(q *dispatch.Queue, n int) {
	for i := range n {
		q.Push(wire.Delivery{In: wire.In{Subject: "s"}, Stored: &wire.Stored{Sequence: uint64(i + 1)}})
	}
}

// newQueue returns a queue that stops with the test.
func newQueue(t *testing.T, n int, run func(wire.Delivery)) *dispatch.Queue {
	t.Helper()
	q := dispatch.New(n, run)
	t.Cleanup(func() { q.Stop() })
	return q
}

// inline has run called between Enter and Leave.
func inline(q *dispatch.Queue, run func(number int64)) bool {
	number, ok := q.Enter()
	if !ok {
		return false
	}
	defer q.Leave()
	run(number)
	return true
}

func TestRunsOfTheSourcesOwnAreCounted(t *testing.T) {
	t.Parallel()
	q := newQueue(t, 1, func(wire.Delivery) { t.Error("a worker has run something") })
	for i := range int64(3) {
		ran := inline(q, func(number int64) {
			if begun, ended := q.Begun(), q.Ended(); number != i+1 || begun != i+1 || ended != i || q.InFlight() != 1 {
				t.Errorf("run %d has number %d, %d have begun and %d ended", i+1, number, begun, ended)
			}
		})
		if !ran || q.Ended() != i+1 || q.InFlight() != 0 {
			t.Fatalf("after %d runs %d have ended", i+1, q.Ended())
		}
	}
}

func TestConcurrencyIsReachedAndNotExceeded(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"Do", "Push"} {
		for _, n := range []int{1, 2, 7} {
			t.Run(fmt.Sprintf("%s/%d", way, n), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var most, now atomic.Int64
					q := newQueue(t, n, func(wire.Delivery) {
						most.Store(max(most.Load(), now.Add(1)))
						time.Sleep(time.Second) // others may begin meanwhile
						now.Add(-1)
					})
					for i := range 50 {
						if way == "Do" {
							q.Do(numbered(uint64(i)))
						} else {
							q.Push(numbered(uint64(i)))
						}
					}
					if err := q.Wait(t.Context()); err != nil {
						t.Fatal(err)
					}
					if most.Load() != int64(n) {
						t.Errorf("at most %d ran at once, want %d", most.Load(), n)
					}
				})
			})
		}
	}
}

func TestPushKeepsTheOrderWithConcurrencyOne(t *testing.T) {
	t.Parallel()
	var got []uint64
	q := newQueue(t, 1, func(d wire.Delivery) { got = append(got, d.Stored.Sequence) })
	var want []uint64
	for i := range uint64(5000) {
		want = append(want, i)
		q.Push(numbered(i))
	}
	if err := q.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Error("the messages did not run in the order in which they were pushed")
	}
}

func TestDoMakesItsSourceWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 3
		release := make(chan struct{})
		q := newQueue(t, n, func(wire.Delivery) { <-release })
		var done atomic.Int64
		go func() {
			for i := range uint64(20) {
				q.Do(numbered(i))
				done.Add(1)
			}
		}()
		synctest.Wait()
		if msgs, _ := q.Backlog(); done.Load() != 2*n || msgs != n || q.InFlight() != n {
			t.Errorf("Do took %d messages, %d wait and %d run; want %d, %d and %d", done.Load(), msgs, q.InFlight(), 2*n, n, n)
		}
		close(release)
		synctest.Wait()
		if done.Load() != 20 {
			t.Errorf("Do took %d of 20 messages once there was room", done.Load())
		}
	})
}

func TestStopUnblocksDo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		q := newQueue(t, 2, func(wire.Delivery) { <-release })
		for i := range uint64(4) {
			q.Do(numbered(i))
		}
		took := make(chan bool)
		go func() { took <- q.Do(numbered(4)) }()
		synctest.Wait()
		left := q.Stop()
		if <-took {
			t.Error("a Do that waited for room took its message after Stop")
		}
		if got := sequences(left); !slices.Equal(got, []uint64{2, 3}) {
			t.Errorf("Stop returned %v, want those that waited, in order", got)
		}
		close(release)
	})
}

func sequences(ds []wire.Delivery) []uint64 {
	var s []uint64
	for _, d := range ds {
		s = append(s, d.Stored.Sequence)
	}
	return s
}

func TestAStoppedQueueRefuses(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 4} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			var c counts
			q := newQueue(t, n, c.run)
			if left := q.Stop(); len(left) != 0 {
				t.Errorf("Stop of an empty queue returned %d messages", len(left))
			}
			if q.Do(numbered(1)) {
				t.Error("Do took a message after Stop")
			}
			if q.Push(numbered(2)) {
				t.Error("Push took a message after Stop")
			}
			if n == 1 && inline(q, func(int64) { t.Error("it ran") }) {
				t.Error("Enter let a message run after Stop")
			}
			if left := q.Stop(); len(left) != 0 {
				t.Errorf("a second Stop returned %d messages", len(left))
			}
			if err := q.Wait(t.Context()); err != nil {
				t.Error(err)
			}
			if c.total() != 0 {
				t.Errorf("%d messages ran after Stop", c.total())
			}
		})
	}
}

// A queue that was stopped and waited for is quiet for good, whatever its source
// does at that moment: this is what Unsubscribe promises.
func TestNothingRunsAfterStopAndWait(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"the source's goroutine": 0, "one worker": 1, "three workers": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 300 {
				var over atomic.Bool
				var late atomic.Int64
				run := func() {
					if over.Load() {
						late.Add(1)
					}
				}
				q := newQueue(t, max(n, 1), func(wire.Delivery) { run() })
				ended := make(chan struct{})
				begun := make(chan struct{})
				go func() {
					defer close(ended)
					for i := range uint64(200) {
						if i == 20 {
							close(begun)
						}
						if n == 0 {
							inline(q, func(int64) { run() })
						} else {
							q.Do(numbered(i))
						}
					}
				}()
				<-begun
				q.Stop()
				if err := q.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				over.Store(true)
				<-ended
				if late.Load() > 0 {
					t.Fatalf("%d messages ran after Stop and Wait", late.Load())
				}
			}
		})
	}
}

func TestEveryMessageRunsOnceOrIsReturned(t *testing.T) {
	t.Parallel()
	for round := range 30 {
		seed := uint64(round)
		rnd := rand.New(rand.NewPCG(seed, 1))
		var c counts
		const sources, each = 4, 500
		q := newQueue(t, 1+rnd.IntN(6), c.run)
		var refused atomic.Int64
		var wg sync.WaitGroup
		for s := range sources {
			wg.Go(func() {
				for i := range each {
					if !q.Push(numbered(uint64(s*each + i))) {
						refused.Add(1)
					}
				}
			})
		}
		for range rnd.IntN(20000) {
			q.InFlight() // some random time
		}
		left := q.Stop()
		wg.Wait()
		if err := q.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, d := range left {
			c.run(d)
		}
		for seq, n := range c.ran {
			if n != 1 {
				t.Fatalf("seed %d: message %d ran or came back %d times", seed, seq, n)
			}
		}
		if got := len(c.ran) + int(refused.Load()); got != sources*each {
			t.Fatalf("seed %d: %d of %d messages are accounted for", seed, got, sources*each)
		}
	}
}

func TestAHandlerMayPushIntoItsOwnQueue(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 4} {
		var c counts
		var q *dispatch.Queue
		q = newQueue(t, n, func(d wire.Delivery) {
			c.run(d)
			if d.Stored.Sequence > 0 {
				q.Push(numbered(d.Stored.Sequence - 1))
			}
		})
		q.Push(numbered(1000))
		if err := q.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c.total() != 1001 {
			t.Errorf("concurrency %d: Wait returned after %d of 1001 messages", n, c.total())
		}
	}
}

func TestBacklogCountsMessagesAndBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		q := newQueue(t, 1, func(wire.Delivery) { <-release })
		for range 3 {
			q.Push(wire.Delivery{In: wire.In{Subject: "abc", Data: make([]byte, 100)}})
		}
		synctest.Wait()
		if msgs, bytes := q.Backlog(); msgs != 2 || bytes != 206 {
			t.Errorf("%d messages with %d bytes wait, want 2 with 206", msgs, bytes)
		}
		close(release)
		synctest.Wait()
		if msgs, bytes := q.Backlog(); msgs != 0 || bytes != 0 {
			t.Errorf("%d messages with %d bytes wait at the end", msgs, bytes)
		}
	})
}

func TestWait(t *testing.T) {
	t.Parallel()
	t.Run("of an idle queue returns at once", func(t *testing.T) {
		t.Parallel()
		ended, cancel := context.WithCancel(t.Context())
		cancel() // even with a context that has ended
		if err := dispatch.New(1, func(wire.Delivery) {}).Wait(ended); err != nil {
			t.Error(err)
		}
	})
	t.Run("returns the cause of its context", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			q := newQueue(t, 2, func(wire.Delivery) { <-release })
			q.Push(numbered(1))
			why := errors.New("no patience")
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, why)
			defer cancel()
			if err := q.Wait(ctx); !errors.Is(err, why) {
				t.Errorf("got %v", err)
			}
			close(release)
			if err := q.Wait(t.Context()); err != nil {
				t.Errorf("a second Wait: %v", err)
			}
		})
	})
	t.Run("wakes all who wait", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			q := newQueue(t, 2, func(wire.Delivery) { <-release })
			for i := range uint64(5) {
				q.Push(numbered(i))
			}
			errs := make(chan error, 8)
			for range cap(errs) {
				go func() { errs <- q.Wait(t.Context()) }()
			}
			synctest.Wait()
			if len(errs) > 0 {
				t.Fatal("a Wait returned while messages ran")
			}
			close(release)
			for range cap(errs) {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
		})
	})
}

// A lost wake-up would hang: the last handler may end at any moment of Wait.
func TestWaitMissesNoEnd(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2} {
		q := newQueue(t, n, func(wire.Delivery) {})
		for i := range uint64(3000) {
			q.Push(numbered(i))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if err := q.Wait(ctx); err != nil {
				t.Fatalf("concurrency %d, round %d: %v", n, i, err)
			}
			cancel()
			if q.InFlight() != 0 {
				t.Fatal("Wait returned while a message ran")
			}
		}
	}
}

func TestWaitFromAHandlerDoesNotWaitForItself(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		inline bool
		n      int
		others int
	}{
		{name: "on the source's goroutine", inline: true, n: 1},
		{name: "on the only worker", n: 1},
		{name: "on one of four workers", n: 4},
		{name: "while others run", n: 4, others: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				errs := make(chan error, 1)
				var othersEnded atomic.Int64
				var q *dispatch.Queue
				run := func(d wire.Delivery) {
					if d.Stored.Sequence > 0 {
						time.Sleep(time.Minute)
						othersEnded.Add(1)
						return
					}
					ctx, cancel := context.WithTimeout(dispatch.FromCaller(t.Context()), time.Hour)
					defer cancel()
					waited := make(chan error)
					go func() { waited <- q.Wait(ctx) }() // as Shutdown does, on another goroutine
					errs <- <-waited
					if got := othersEnded.Load(); got != int64(c.others) {
						t.Errorf("Wait returned when %d of %d others had ended", got, c.others)
					}
				}
				q = newQueue(t, c.n, run)
				for i := range c.others {
					q.Push(numbered(uint64(i + 1)))
				}
				if c.inline {
					inline(q, func(int64) { run(numbered(0)) })
				} else {
					q.Push(numbered(0))
				}
				if err := <-errs; err != nil {
					t.Errorf("got %v", err)
				}
				if err := q.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestRunsCaller(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{true, false} {
		t.Run(fmt.Sprintf("the source's own goroutine: %v", own), func(t *testing.T) {
			t.Parallel()
			var inside context.Context
			var q *dispatch.Queue
			other := newQueue(t, 1, func(wire.Delivery) {})
			run := func() {
				if q.RunsCaller(t.Context()) {
					t.Error("a context that notes no caller is a handler's")
				}
				inside = dispatch.FromCaller(t.Context())
				if !q.RunsCaller(inside) {
					t.Error("the handler does not recognise itself")
				}
				if other.RunsCaller(inside) {
					t.Error("another queue takes the handler for its own")
				}
				elsewhere := make(chan context.Context)
				go func() { elsewhere <- dispatch.FromCaller(t.Context()) }()
				if q.RunsCaller(<-elsewhere) {
					t.Error("a goroutine that the handler started counts as the handler")
				}
				again := make(chan context.Context)
				go func() { again <- dispatch.FromCaller(inside) }()
				if !q.RunsCaller(<-again) {
					t.Error("a caller that was noted already was forgotten")
				}
			}
			q = newQueue(t, 1, func(wire.Delivery) { run() })
			outside := dispatch.FromCaller(t.Context())
			if own {
				inline(q, func(int64) { run() })
			} else {
				q.Push(numbered(1))
				if q.RunsCaller(outside) {
					t.Error("who pushes counts as a handler")
				}
			}
			if err := q.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if q.RunsCaller(inside) {
				t.Error("a handler that has ended counts as running")
			}
		})
	}
}
