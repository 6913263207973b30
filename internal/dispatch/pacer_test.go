package dispatch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

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
