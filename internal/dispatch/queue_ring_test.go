package dispatch

import (
	"math/rand/v2"
	"testing"

	"github.com/omnibus-go/bus/internal/wire"
)

// A random sequence of operations on a ring behaves as on a slice.
func TestRingIsAQueue(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	var r ring
	var model []wire.Delivery
	bytes := 0
	for i := range 200_000 {
		// Long phases of growth and of shrinking, so that it wraps at every size.
		growing := (i/5000)%2 == 0
		if rnd.IntN(10) < 6 == growing || len(model) == 0 {
			d := wire.Delivery{Number: int64(i), In: wire.In{Data: make([]byte, rnd.IntN(9))}}
			r.push(d)
			model = append(model, d)
			bytes += d.Size()
		} else {
			want := model[0]
			model = model[1:]
			bytes -= want.Size()
			if got := r.pop(); got.Number != want.Number {
				t.Fatalf("step %d: got message %d, want %d", i, got.Number, want.Number)
			}
		}
		if r.n != len(model) || r.bytes != bytes {
			t.Fatalf("step %d: %d messages with %d bytes, want %d with %d", i, r.n, r.bytes, len(model), bytes)
		}
	}
}

func TestRingLetsGoOfPayloads(t *testing.T) {
	t.Parallel()
	var r ring
	for range 20 {
		r.push(wire.Delivery{In: wire.In{Data: []byte("payload"), Subject: "s"}})
	}
	for range 13 {
		r.pop()
	}
	held := 0
	for _, d := range r.buf {
		if d.Data != nil || d.Subject != "" {
			held++
		}
	}
	if held != r.n {
		t.Errorf("the buffer holds %d payloads for %d messages", held, r.n)
	}
}

func TestRingGivesABurstsMemoryBack(t *testing.T) {
	t.Parallel()
	for _, burst := range []int{maxKeptRing, maxKeptRing + 1, 10 * maxKeptRing} {
		var r ring
		for range burst {
			r.push(wire.Delivery{})
		}
		for range burst {
			r.pop()
		}
		if len(r.buf) > maxKeptRing {
			t.Errorf("after a burst of %d messages the empty ring keeps room for %d", burst, len(r.buf))
		}
		r.push(wire.Delivery{Number: 7})
		if got := r.pop(); got.Number != 7 {
			t.Errorf("after a burst the ring returned message %d", got.Number)
		}
	}
}
