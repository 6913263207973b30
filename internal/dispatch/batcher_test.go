package dispatch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

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

// A batch counts what waits in the lanes, takes its share of the keys, equal numbers of each, and
// more keys only to be whole. One that is tried again takes none of its key along.
func TestQueueBatchesByKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		batches := make(chan map[string]int, 10)
		release := make(chan struct{})
		lanes := dispatch.NewLanes(false)
		q := dispatch.NewBatches(2, 6, time.Minute, func(ds []wire.Delivery) {
			keys := make(map[string]int)
			for _, d := range ds {
				keys[d.Stored.Key]++
			}
			batches <- keys
			<-release
		})
		q.FillFrom(lanes)
		q.Quiesce()
		enter := func(key string, from, n uint64) {
			for i := range n {
				if d := keyed(key, from+i); lanes.Enter(d) {
					q.Push(d)
				} else {
					q.CheckBatch()
				}
			}
		}
		again := keyed("d", 40)
		again.Stored.Attempt = 2
		for key, from := range map[string]uint64{"a": 1, "b": 11, "c": 21} {
			enter(key, from, 5)
		}
		lanes.Enter(again)
		q.Push(again)
		enter("d", 41, 5)
		q.Resume()
		synctest.Wait()
		one, two := <-batches, <-batches
		if _, there := one["d"]; !there {
			one, two = two, one
		}
		if one["d"] != 1 || len(one) < 2 || len(two) != 2 {
			t.Errorf("the batches are %v and %v", one, two)
		}
		for key, n := range two {
			if n != 3 {
				t.Errorf("of %s there are %d", key, n)
			}
		}
		close(release)
		enter("e", 100, 5)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(batches) != 0 {
			t.Errorf("a batch of %v began that is not whole", <-batches)
		}
		enter("e", 105, 1)
		synctest.Wait()
		if len(batches) != 1 || (<-batches)["e"] != 6 {
			t.Error("a batch did not begin when its lane made it whole")
		}
		q.Stop()
	})
}
