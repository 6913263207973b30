package dispatch_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

// A quiesced queue takes messages in, begins none, and is waited for.
func TestQueueQuiesce(t *testing.T) {
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

// Once its channel is closed, a queue begins nothing, also after Resume, and Stop returns what
// waits.
func TestQueueBeginUntil(t *testing.T) {
	t.Parallel()
	for name, adjust := range map[string]func(*dispatch.Queue){
		"at once":   func(*dispatch.Queue) {},
		"with time": func(q *dispatch.Queue) { q.Pace(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var ran atomic.Int64
				q := dispatch.New(1, func(wire.Delivery) { time.Sleep(time.Second); ran.Add(1) })
				stopping := make(chan struct{})
				q.BeginUntil(stopping)
				adjust(q)
				pushN(q, 4)
				time.Sleep(time.Millisecond)
				close(stopping)
				if err := q.Wait(t.Context()); err != nil || ran.Load() != 1 {
					t.Errorf("%v after %d runs", err, ran.Load())
				}
				pushN(q, 2)
				q.Quiesce()
				q.Resume()
				time.Sleep(time.Hour)
				if left := q.Stop(); len(left) != 5 || ran.Load() != 1 || !q.IsStopping() {
					t.Errorf("%d wait after %d runs", len(left), ran.Load())
				}
			})
		})
	}
}
