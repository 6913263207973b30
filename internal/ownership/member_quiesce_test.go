package ownership

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
)

// begun is how many handler calls have begun in ps.
func begun(ps ...*process) (n int64) {
	for _, p := range ps {
		n += p.Begun()
	}
	return n
}

// mustRest fails the test if one of ps begins a message within a time.
func mustRest(t *testing.T, d time.Duration, ps ...*process) {
	t.Helper()
	before := begun(ps...)
	time.Sleep(d)
	if now := begun(ps...); now != before {
		t.Errorf("%d messages began while quiesced", now-before)
	}
	for _, p := range ps {
		if n := p.InFlight(); n != 0 {
			t.Errorf("%d handlers of %s run", n, p.name)
		}
	}
}

// finish awaits all messages and drains ps. Each message was handled once.
func (w *world) finish(ps ...*process) {
	w.t.Helper()
	w.await()
	for _, p := range ps {
		p.drain()
	}
	w.mustNotOverlap()
	for seq, n := range w.handled {
		if n != 1 {
			w.t.Errorf("message %d was handled %d times", seq, n)
		}
	}
}

// While the owner is quiesced nobody begins a message, however long that takes. Then all go
// on with what they have.
func TestQuiesceOfTheOwner(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(2, 3)
		for range 2 { // twice
			must(t, a.Quiesce(t.Context()))
		}
		mustRest(t, 5*ttl, a, b)
		if !a.Owns() {
			t.Error("it lost the lease")
		}
		a.Resume()
		a.Resume()
		w.finish(b, a)
	})
}

// While another member is quiesced it begins nothing, and the rest goes on.
func TestQuiesceOfAMember(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(2, 3)
		b.Resume() // without Quiesce
		must(t, b.Quiesce(t.Context()))
		before := a.Begun()
		mustRest(t, time.Second, b)
		if a.Begun() == before {
			t.Error("the owner does not go on")
		}
		b.Resume()
		synctest.Wait()
		before = b.Begun()
		time.Sleep(ttl)
		if b.Begun() == before {
			t.Error("it does not go on")
		}
		w.finish(b, a)
	})
}

// When its context ends first, Quiesce says what runs, and begins nothing all the same.
func TestQuiesceOfAMemberGivesUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(2, 3)
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("no time")
		cancel(reason)
		for _, p := range []*process{b, a} {
			running, ok := errors.AsType[*dispatch.RunningError](p.Quiesce(ctx))
			if !ok || running.Running == 0 || !errors.Is(running, reason) {
				t.Errorf("%s: got %+v", p.name, running)
			}
		}
		time.Sleep(2 * handler)
		mustRest(t, ttl, a, b)
		must(t, a.Quiesce(t.Context()))
		a.Resume()
		b.Resume()
		w.finish(b, a)
	})
}

// A quiesced process does not become the owner. What it was assigned, and did not begin, is
// with others once it drains.
func TestDrainWhileQuiesced(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(2, 3)
		must(t, b.Quiesce(t.Context()))
		must(t, a.Quiesce(t.Context()))
		a.drain()
		time.Sleep(5 * ttl)
		if b.Owns() {
			t.Error("it became the owner while it was quiesced")
		}
		mustRest(t, ttl, b)
		c := w.join("c", 2)
		time.Sleep(ttl)
		b.drain()
		w.finish(c)
	})
}

// The owner of a quiesced member may change.
func TestOwnerDiesWhileQuiesced(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(2, 3)
		must(t, a.Quiesce(t.Context()))
		must(t, b.Quiesce(t.Context()))
		a.kill()
		time.Sleep(5 * ttl)
		if b.Owns() {
			t.Error("it became the owner while it was quiesced")
		}
		b.Resume()
		w.await()
		b.drain()
		w.mustNotOverlap()
	})
}

// A process that stops begins nothing, also before it drains, and the others go on. If it is the
// owner, all wait for its drain. Otherwise it does not become the owner.
func TestStoppingProcessBeginsNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(2, 3)
		close(b.stopping)
		time.Sleep(2 * handler)
		before := a.Begun()
		mustRest(t, time.Second, b)
		if a.Begun() == before {
			t.Error("the owner does not go on")
		}
		close(a.stopping)
		time.Sleep(2 * handler)
		mustRest(t, ttl, a, b)
		a.drain()
		time.Sleep(5 * ttl)
		if b.Owns() {
			t.Error("it became the owner while it stops")
		}
		c := w.join("c", 2)
		time.Sleep(ttl)
		b.drain()
		w.finish(c)
	})
}
