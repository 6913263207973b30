package dispatch_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

func pushN(q *dispatch.Queue, n int) {
	for i := range n {
		q.Push(wire.Delivery{In: wire.In{Subject: "s"}, Stored: &wire.Stored{Sequence: uint64(i + 1)}})
	}
}

// A queue that rests takes messages in, begins none, and is waited for.
func TestQueueRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ran atomic.Int64
		q := dispatch.New(2, func(wire.Delivery) { time.Sleep(time.Second); ran.Add(1) })
		pushN(q, 4)
		time.Sleep(time.Millisecond)
		if run, ok := q.Longest(); !ok || run.Subject != "s" || time.Since(run.Since) != time.Millisecond {
			t.Errorf("the longest is %+v", run)
		}
		q.Quiesce()
		if err := q.Wait(t.Context()); err != nil || ran.Load() != 2 {
			t.Errorf("%v after %d runs", err, ran.Load())
		}
		pushN(q, 2)
		time.Sleep(time.Hour)
		if n, _ := q.Backlog(); n != 4 || ran.Load() != 2 {
			t.Errorf("%d wait after %d runs", n, ran.Load())
		}
		if _, ok := q.Longest(); ok {
			t.Error("something runs")
		}
		q.Resume()
		if err := q.Wait(t.Context()); err != nil || ran.Load() != 6 {
			t.Errorf("%v after %d runs", err, ran.Load())
		}
		q.Stop()
	})
}

// The pace holds for all workers together, and whatever waits for it does not hold up
// the end.
func TestQueuePace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ran := make(chan time.Duration, 10)
		q := dispatch.New(4, func(wire.Delivery) { ran <- time.Since(began) })
		q.Pace(time.Minute)
		pushN(q, 10)
		time.Sleep(3*time.Minute + time.Second)
		for i := range 4 {
			if d := <-ran; d != time.Duration(i)*time.Minute {
				t.Errorf("run %d began after %v", i, d)
			}
		}
		if n := len(q.Stop()); n != 6 || len(ran) != 0 {
			t.Errorf("%d are left, and %d ran more", n, len(ran))
		}
		if err := q.Wait(t.Context()); err != nil || time.Since(began) > 4*time.Minute {
			t.Error(err)
		}
	})
}

// A batch runs when it is whole or has waited long enough, in order; its numbers are
// those of messages, and who runs it may wait for the queue.
func TestQueueBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sizes := make(chan int, 10)
		var last int64
		var q *dispatch.Queue
		q = dispatch.NewBatches(1, 3, time.Minute, func(ds []wire.Delivery) {
			for _, d := range ds {
				if d.Number != last+1 {
					t.Errorf("number %d comes after %d", d.Number, last)
				}
				last = d.Number
			}
			if q.InFlight() != len(ds) {
				t.Errorf("%d are in flight", q.InFlight())
			}
			if sizes <- len(ds); len(ds) == 1 {
				if err := q.Wait(dispatch.FromCaller(context.Background())); err != nil {
					t.Error(err)
				}
			}
		})
		pushN(q, 7)
		synctest.Wait()
		if len(sizes) != 2 {
			t.Errorf("at first %d ran", len(sizes))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if <-sizes != 3 || <-sizes != 3 || <-sizes != 1 || q.Begun() != 7 || q.Ended() != 7 {
			t.Errorf("%d began, %d ended", q.Begun(), q.Ended())
		}
		pushN(q, 2)
		time.Sleep(time.Second)
		if n := len(q.Stop()); n != 2 {
			t.Errorf("%d are left", n)
		}
	})
}
