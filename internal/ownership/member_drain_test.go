package ownership

import (
	"testing"
	"time"
)

// A member that was never started drains too.
func TestDrainWithoutStart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		l := w.dial(nil)
		defer l.Close()
		m, err := NewMember(Config{Link: l, Stream: names.stream, Durable: names.durable, ID: "x", TTL: ttl, Workers: 1, RequestTimeout: time.Second})
		must(t, err)
		must(t, m.Drain(t.Context()))
	})
}

// An owner that drains hands over within 100 ms.
func TestHandOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.twoProcesses(2, 2)
		if ownerOf(a, b) != a {
			t.Fatal("the first member is not the owner")
		}
		a.drain()
		began := time.Now()
		for ownerOf(b) == nil {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the hand-over took %v", took)
		}
		w.await()
		for seq, n := range w.handled {
			if n != 1 {
				t.Errorf("message %d was handled %d times", seq, n)
			}
		}
		b.drain()
		w.mustNotOverlap()
	})
}
