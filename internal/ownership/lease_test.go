package ownership

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/sidestream"
)

// If the stream of the leases is deleted, nothing is handled, and that is reported once. When
// the stream is there again, work goes on.
func TestLeaseStreamIsDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mayFail = true
		p := w.join("a", 2)
		time.Sleep(ttl)
		must(t, w.js.DeleteStream(t.Context(), sidestream.KeysStream("S")))
		time.Sleep(ttl)
		if p.Stalled() == nil || len(w.reported) != 1 {
			t.Errorf("reported: %v; now %v", w.reported, p.Stalled())
		}
		w.publish(3, 20)
		w.declare()
		time.Sleep(2 * ttl)
		if p.Stalled() != nil || !p.Owns() {
			t.Errorf("%v, owner: %t", p.Stalled(), p.Owns())
		}
		w.await()
		p.drain()
	})
}

// A stream of leases that was deleted and made anew repeats its epochs. The owner from before
// sees that the lease with its epoch is another's.
func TestLeaseStreamIsMadeAnew(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(3, 1)
		a := w.join("a", 2)
		time.Sleep(ttl + ttl/8) // it has nothing to write, and is between two looks
		must(t, w.js.DeleteStream(t.Context(), sidestream.KeysStream("S")))
		w.declare()
		b := w.join("b", 2)
		time.Sleep(ttl)
		if a.Owns() || !b.Owns() || w.lost["a"] != 1 {
			t.Errorf("owners: a %t, b %t; a lost the lease %d times", a.Owns(), b.Owns(), w.lost["a"])
		}
		w.publish(3, 20)
		w.await()
		a.drain()
		b.drain()
		w.mustNotOverlap()
	})
}

func TestOwnerDies(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(2, 2)
		c := w.join("c", 2)
		time.Sleep(time.Second)
		a.kill()
		began := time.Now()
		for ownerOf(b, c) == nil {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took < ttl*3/4 || took > 2*ttl {
			t.Errorf("the next owner took over after %v", took)
		}
		w.await()
		b.drain()
		c.drain()
	})
}

// An owner that is silent for long is superseded. It settles nothing when it continues.
func TestOwnerIsSuspended(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(4, 2)
		a.suspend()
		time.Sleep(2 * ttl)
		if ownerOf(b) == nil {
			t.Error("nobody has taken over")
		}
		a.resume()
		time.Sleep(ttl)
		if ownerOf(a) != nil || w.lost["a"] != 1 {
			t.Error("the old owner still thinks that it is one")
		}
		if w.refused["a"] == 0 {
			t.Error("its settlements were not refused")
		}
		w.await()
		b.drain()
		a.drain()
	})
}

// Members with different TTLs use the longer one.
func TestMembersWithDifferentTTLs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.publish(10, 50)
		a := w.joinWith("a", 2, ttl)
		synctest.Wait()
		b := w.joinWith("b", 2, ttl/8)
		time.Sleep(time.Second)
		a.suspend()
		time.Sleep(ttl / 2)
		a.resume()
		time.Sleep(ttl)
		if ownerOf(a) == nil || ownerOf(b) != nil {
			t.Error("the short-lived one has taken over")
		}
		w.await()
		b.drain()
		a.drain()
		w.mustNotOverlap()
	})
}

// When the AckWait of the durable gets shorter, so do the TTLs of all members: if the owner dies
// then, the next one comes soon, and meets the others before the server redelivers.
func TestTTLFollowsAckWait(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.ackWait = 30 * time.Second
		w.publish(10, 200)
		a := w.joinWith("a", 2, TTLOf(w.ackWait))
		synctest.Wait()
		b, c := w.joinWith("b", 2, TTLOf(w.ackWait)), w.joinWith("c", 2, TTLOf(w.ackWait))
		time.Sleep(10 * time.Second)
		w.mu.Lock()
		w.ackWait = 3 * time.Second
		w.mu.Unlock()
		time.Sleep(10 * time.Second)
		for _, p := range []*process{a, b, c} {
			if p.currentTTL() != time.Second {
				t.Errorf("the TTL of %s is %v", p.name, p.currentTTL())
			}
		}
		a.kill()
		time.Sleep(2 * time.Second)
		if ownerOf(b, c) == nil {
			t.Error("nobody has taken over")
		}
		w.await()
		w.mu.Lock()
		w.ackWait = time.Hour
		w.mu.Unlock()
		time.Sleep(10 * time.Second)
		if b.currentTTL() != time.Second {
			t.Errorf("the TTL got longer: %v", b.currentTTL())
		}
		b.drain()
		c.drain()
		w.mustNotOverlap()
	})
}
