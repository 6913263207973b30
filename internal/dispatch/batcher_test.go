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
