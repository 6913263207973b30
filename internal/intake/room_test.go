package intake

import (
	"errors"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// Time counts as lost only between a look at which it is and the next one. A tenth of the other
// time is forgiven. How long it takes to store messages is subtracted, and forgiven in the same way.
func TestLostTime(t *testing.T) {
	t.Parallel()
	var r room
	now := time.Now()
	for _, step := range []struct {
		passed time.Duration
		losing bool
		want   time.Duration
	}{
		{0, true, 0},
		{lookAtRoom, true, 10 * time.Millisecond},
		{lookAtRoom, false, 20 * time.Millisecond},
		{100 * time.Millisecond, true, 10 * time.Millisecond},
		{time.Hour, true, 30 * time.Millisecond}, // it was not looked at
		{lookAtRoom, false, 40 * time.Millisecond},
		{time.Hour, false, 0},
	} {
		now = now.Add(step.passed)
		if got := r.count(now, step.losing); got != step.want {
			t.Errorf("after %v %v are lost, want %v", step.passed, got, step.want)
		}
	}
	r.stored(now, 1000, true)
	for _, step := range []struct {
		losing bool
		want   time.Duration
	}{{false, -45 * time.Millisecond}, {true, -40 * time.Millisecond}, {false, -20 * time.Millisecond}, {false, -15 * time.Millisecond}} {
		now = now.Add(50 * time.Millisecond)
		if got := r.count(now, step.losing); got != step.want {
			t.Errorf("after messages were stored %v are lost, want %v", got, step.want)
		}
	}
}

// Messages behind one that fails for a short time are stored only when much time is lost. What comes
// while that one fails is stored at once; what comes later waits here, and is stored when room is needed.
func TestWhatIsStored(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(nil)
	k := f.k
	k.lanes.Open()
	for sequence := uint64(1); sequence <= 50; sequence++ {
		k.enterLocked(*fromSource(0, sequence))
	}
	head := fromSource(0, 1)
	k.failed(*head, errors.New("fails"))
	now := k.stuck["k"].since
	if n := k.spillLocked(now, 80, false); n > 0 {
		t.Errorf("%d are stored at once", n)
	}
	if n := k.spillLocked(now.Add(lasting), 80, false); n != 47 || len(f.queue) != 47 || k.takenLocked() != 2 {
		t.Errorf("%d are stored, %d stay", n, k.takenLocked())
	}
	f.mustAdmit(t, fromSource(0, 51), true)
	if len(f.queue) != 48 || f.behind > 0 {
		t.Errorf("%d are stored, %d wait here", len(f.queue), f.behind)
	}
	k.finished(*head)
	f.mustAdmit(t, fromSource(0, 52), true)
	if len(f.queue) != 48 || f.behind != 1 || k.takenLocked() != 1 {
		t.Errorf("%d are stored, %d wait here", len(f.queue), f.behind)
	}
	k.failed(*fromSource(0, 2), errors.New("fails"))
	f.mustAdmit(t, fromSource(0, 53), true)
	if len(f.queue) != 48 || f.behind != 2 {
		t.Errorf("%d are stored, %d wait here", len(f.queue), f.behind)
	}
	k.room.pressed, k.stuck["k"].since = now, now.Add(-lasting)
	f.mustAdmit(t, fromSource(0, 54), true)
	if len(f.queue) != 51 || f.behind != 0 {
		t.Errorf("%d are stored, %d wait here", len(f.queue), f.behind)
	}
	k.finished(*fromSource(0, 2))
	f.mustAdmit(t, fromSource(0, 55), true)
	if n := k.spillLocked(now, 80, false); n != 1 || len(f.queue) != 52 {
		t.Errorf("%d are stored", n)
	}
}

// Others are known while messages of two keys are here, and for a while after they were done.
func TestKnownOthers(t *testing.T) {
	t.Parallel()
	k := newTestFollowers(nil).k
	k.enterLocked(*fromSource(0, 1))
	k.room.done("k")
	k.room.done("k")
	if k.knowsOthersLocked(time.Now()) {
		t.Error("there is one key")
	}
	k.room.done("l")
	if now := time.Now(); !k.knowsOthersLocked(now) || k.knowsOthersLocked(now.Add(knownFor)) {
		t.Error("another key is known for a while")
	}
}

// A worker is busy with a few messages of a batch, and with one where there are no batches.
func TestIdleWorkers(t *testing.T) {
	t.Parallel()
	run := func([]wire.Delivery, []settle.Outcome) {}
	for _, one := range []struct {
		name string
		size int
		run  func([]wire.Delivery, []settle.Outcome)
		busy int // as many messages keep two workers busy
	}{{"no batches", 0, nil, 2}, {"batches of 3", 3, run, 6}, {"batches of 100", 100, run, 20}} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			k := newTestFollowers(nil).k
			k.d.cfg.Concurrency, k.d.cfg.Batch = 2, Batch{Size: one.size, Run: one.run}
			for n := range one.busy {
				if !k.hasIdleWorkers() {
					t.Errorf("with %d messages no worker is idle", n)
				}
				k.d.push(*fromSource(0, uint64(n+1)))
			}
			if k.hasIdleWorkers() {
				t.Errorf("with %d messages a worker is idle", one.busy)
			}
		})
	}
}
