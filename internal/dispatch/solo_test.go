package dispatch_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestSolo(t *testing.T) {
	t.Parallel()
	var s dispatch.Solo
	if !s.Enter(keyed("", 1), false) || !s.Enter(keyed("", 2), false) || s.Enter(keyed("", 3), true) || s.Enter(keyed("", 4), false) {
		t.Fatal("one that runs alone does not wait, or not the one after it")
	}
	if next := s.Leave(); len(next) != 0 {
		t.Errorf("%v comes while another runs", sequences(next))
	}
	next := s.Leave()
	if !slices.Equal(sequences(next), []uint64{3}) {
		t.Fatalf("%v comes next", sequences(next))
	}
	if s.Enter(keyed("", 5), true) || s.Enter(keyed("", 6), false) || !s.Enter(next[0], true) || s.Enter(keyed("", 7), false) || s.Kept() != 4 {
		t.Fatal("something runs beside one that runs alone")
	}
	if next = s.Leave(); !slices.Equal(sequences(next), []uint64{5}) || !s.Enter(next[0], true) {
		t.Fatalf("%v comes next", sequences(next))
	}
	if next = s.Leave(); !slices.Equal(sequences(next), []uint64{4, 6, 7}) {
		t.Errorf("%v comes at last", sequences(next))
	}
}

func TestSoloStop(t *testing.T) {
	t.Parallel()
	var s dispatch.Solo
	s.Enter(keyed("", 1), false)
	s.Enter(keyed("", 2), true)
	s.Enter(keyed("", 3), false)
	if got := sequences(s.Stop()); !slices.Equal(got, []uint64{2, 3}) || s.Kept() != 0 {
		t.Errorf("stopped with %v", got)
	}
	if !s.Enter(keyed("", 4), true) || !s.Enter(keyed("", 5), false) {
		t.Error("something is kept after Stop")
	}
	if next := s.Leave(); len(next) != 0 {
		t.Errorf("%v comes after Stop", sequences(next))
	}
}

// Whatever comes and ends in whatever order: nothing runs beside one that is alone, and
// all run in the end.
func TestSoloAtRandom(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	var s dispatch.Solo
	const all = 20_000
	running, ran, next := map[uint64]bool{}, 0, uint64(0) // by sequence: whether it is alone
	var come []wire.Delivery
	for ran < all {
		switch {
		case len(come) > 0 && r.IntN(2) == 0:
			d := come[0]
			come = come[1:]
			if alone := d.Stored.Sequence%10 == 0; s.Enter(d, alone) {
				running[d.Stored.Sequence] = alone
			}
			for seq, alone := range running {
				if alone && len(running) > 1 {
					t.Fatalf("seed %d: %d is not alone", seed, seq)
				}
			}
		case next < all && len(running) < 8 && r.IntN(2) == 0:
			next++
			come = append(come, keyed("", next))
		default:
			for seq := range running {
				delete(running, seq)
				ran++
				come = append(come, s.Leave()...)
				break
			}
		}
	}
	if s.Kept() != 0 {
		t.Errorf("seed %d: %d are kept for ever", seed, s.Kept())
	}
}
