package dispatch_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestIsolation(t *testing.T) {
	t.Parallel()
	var s dispatch.Isolation
	one, two := keyed("", 1), keyed("", 2)
	if !s.Enter(one, false) || !s.Enter(two, false) || s.Enter(keyed("", 3), true) || s.Enter(keyed("", 4), false) {
		t.Fatal("one that runs alone does not wait, or not the one after it")
	}
	if next := s.Leave(one); len(next) != 0 {
		t.Errorf("%v comes while another runs", sequences(next))
	}
	next := s.Leave(two)
	if !slices.Equal(sequences(next), []uint64{3}) {
		t.Fatalf("%v comes next", sequences(next))
	}
	if s.Enter(keyed("", 5), true) || s.Enter(keyed("", 6), false) || !s.Enter(next[0], true) || s.Enter(keyed("", 7), false) || s.Kept() != 4 {
		t.Fatal("something runs beside one that runs alone")
	}
	if next = s.Leave(next[0]); !slices.Equal(sequences(next), []uint64{5}) || !s.Enter(next[0], true) {
		t.Fatalf("%v comes next", sequences(next))
	}
	if next = s.Leave(next[0]); !slices.Equal(sequences(next), []uint64{4, 6, 7}) {
		t.Errorf("%v comes at last", sequences(next))
	}
}

// While one that is to run alone waits for a slow one, others go on after a while.
func TestIsolationBesideASlowOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s dispatch.Isolation
		slow, suspect, other := keyed("", 1), keyed("", 2), keyed("", 3)
		if !s.Enter(slow, false) || s.Enter(suspect, true) || s.Enter(other, false) {
			t.Fatal("the first does not run, or others do")
		}
		time.Sleep(10*time.Second - 1)
		if next := s.Overdue(time.Now()); len(next) != 0 {
			t.Errorf("%v comes too early", sequences(next))
		}
		time.Sleep(time.Nanosecond)
		if next := s.Overdue(time.Now()); len(next) != 1 || !s.Enter(other, false) {
			t.Fatalf("%v comes beside a slow one", sequences(next))
		}
		s.Leave(other)
		if next := s.Leave(slow); !slices.Equal(sequences(next), []uint64{2}) || s.Enter(other, false) || !s.Enter(suspect, true) {
			t.Errorf("%v comes when nothing runs", sequences(next))
		}
	})
}

// However slow they are and however many come: one that is to run alone does so.
func TestIsolationUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s dispatch.Isolation
		began := time.Now()
		ends := map[*wire.Stored]time.Duration{} // of what runs, since began
		come := []wire.Delivery{keyed("", 1), keyed("", 2)}
		for n := uint64(3); ; n++ { // one comes each 10 s and takes a minute; the second is a suspect
			now := time.Since(began)
			if now > 5*time.Minute {
				t.Fatal("it does not run")
			}
			for stored, end := range ends {
				if end <= now {
					delete(ends, stored)
					come = append(come, s.Leave(wire.Delivery{Stored: stored})...)
				}
			}
			come = append(come, s.Overdue(time.Now())...)
			for _, d := range append(come, keyed("", n)) {
				alone := d.Stored.Sequence == 2
				if !s.Enter(d, alone) {
					continue
				}
				if alone {
					return
				}
				ends[d.Stored] = now + time.Minute
			}
			come = nil
			time.Sleep(10 * time.Second)
		}
	})
}

func TestIsolationStop(t *testing.T) {
	t.Parallel()
	var s dispatch.Isolation
	one := keyed("", 1)
	s.Enter(one, false)
	s.Enter(keyed("", 2), true)
	s.Enter(keyed("", 3), false)
	if got := sequences(s.Stop()); !slices.Equal(got, []uint64{2, 3}) || s.Kept() != 0 {
		t.Errorf("stopped with %v", got)
	}
	if !s.Enter(keyed("", 4), true) || !s.Enter(keyed("", 5), false) {
		t.Error("something is kept after Stop")
	}
	if next := s.Leave(one); len(next) != 0 {
		t.Errorf("%v comes after Stop", sequences(next))
	}
}

// Whatever comes and ends in whatever order: nothing runs beside one that is alone, and
// all run in the end.
func TestIsolationAtRandom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, isolationAtRandom)
}

func isolationAtRandom(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	var s dispatch.Isolation
	const all = 20_000
	running, ran, next := map[*wire.Stored]bool{}, 0, uint64(0) // whether it is alone
	var come []wire.Delivery
	for ran < all {
		switch {
		case len(come) > 0 && r.IntN(2) == 0:
			d := come[0]
			come = come[1:]
			if alone := d.Stored.Sequence%10 == 0; s.Enter(d, alone) {
				running[d.Stored] = alone
			}
			for stored, alone := range running {
				if alone && len(running) > 1 {
					t.Fatalf("seed %d: %d is not alone", seed, stored.Sequence)
				}
			}
		case next < all && len(running) < 8 && r.IntN(2) == 0:
			next++
			come = append(come, keyed("", next))
		case r.IntN(4) == 0:
			time.Sleep(time.Duration(r.Int64N(int64(10 * time.Second)))) // virtual time
			come = append(come, s.Overdue(time.Now())...)
		default:
			for stored := range running {
				delete(running, stored)
				ran++
				come = append(come, s.Leave(wire.Delivery{Stored: stored})...)
				break
			}
		}
	}
	if s.Kept() != 0 {
		t.Errorf("seed %d: %d are kept for ever", seed, s.Kept())
	}
}
