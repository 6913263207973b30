package dispatch_test

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

// Workers end when there is nothing to do: an idle queue has no goroutine. The
// bubble would fail if one were left.
func TestAnIdleQueueHasNoGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c counts
		q := newQueue(t, 8, c.run)
		for i := range uint64(100) {
			q.Push(numbered(i))
			if i%10 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if c.total() != 100 {
			t.Errorf("%d of 100 messages ran", c.total())
		}
	})
}

// One worker is kept, and goes when the queue stops.
func TestOneWorkerIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := dispatch.New(8, func(wire.Delivery) { time.Sleep(time.Second) })
		for i := range uint64(8) {
			q.Push(numbered(i))
		}
		if err := q.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range uint64(100) { // it runs all of these
			q.Push(numbered(i))
			if err := q.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if q.Begun() != 108 || q.InFlight() != 0 {
			t.Errorf("%d have run, %d run", q.Begun(), q.InFlight())
		}
		q.Stop() // or the bubble would not end
		q.Stop()
	})
}

// What ends its goroutine has ended, and another worker takes its place.
func TestRunsThatEndTheirGoroutine(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 3} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			q := dispatch.New(concurrency, func(wire.Delivery) {
				if n.Add(1)%2 == 1 {
					runtime.Goexit()
				}
			})
			for range 100 {
				q.Push(wire.Delivery{})
			}
			if err := q.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n.Load() != 100 || q.Begun() != 100 || q.Ended() != 100 || q.InFlight() != 0 {
				t.Errorf("%d ran, %d began, %d ended", n.Load(), q.Begun(), q.Ended())
			}
			if left := q.Stop(); len(left) != 0 {
				t.Errorf("%d are left", len(left))
			}
		})
	}
}
