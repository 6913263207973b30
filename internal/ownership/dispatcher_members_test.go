package ownership

import (
	"testing"
	"time"
)

func TestMemberDies(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(2, 4)
		b.kill()
		w.await()
		a.drain()
	})
}

// A member that is silent for long is taken for dead. Its late outcomes are refused, and it
// learns that.
func TestMemberIsSuspended(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(2, 4)
		b.suspend()
		time.Sleep(2 * ttl)
		b.resume()
		w.await()
		if w.refused["b"] == 0 {
			t.Error("the late outcomes count")
		}
		a.drain()
		b.drain()
	})
}
