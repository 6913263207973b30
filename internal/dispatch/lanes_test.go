package dispatch_test

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

// keyed is a message of a key.
func keyed(key string, n uint64) wire.Delivery {
	return wire.Delivery{Stored: &wire.Stored{Key: key, Sequence: n}, In: wire.In{Data: make([]byte, 10)}}
}

func TestLanesLetOutOneOfEachKey(t *testing.T) {
	t.Parallel()
	l := dispatch.NewLanes(false)
	if !l.Enter(keyed("a", 1)) || !l.Enter(keyed("b", 2)) || l.Enter(keyed("a", 4)) || l.Enter(keyed("a", 3)) {
		t.Fatal("not exactly the first message of each key is out")
	}
	if msgs, bytes := l.Backlog(); msgs != 2 || bytes != 20 || l.Behind("a") != 2 || l.Behind("b") != 0 || l.Behind("x") != 0 {
		t.Errorf("%d messages with %d bytes wait, %d behind a", msgs, bytes, l.Behind("a"))
	}
	for _, want := range []uint64{3, 4} {
		if d, ok := l.Next("a"); !ok || d.Stored.Sequence != want {
			t.Errorf("got %v, want %d", d.Stored, want)
		}
	}
	if _, ok := l.Next("a"); ok {
		t.Error("a message came out of an empty lane")
	}
	if !l.Enter(keyed("a", 5)) {
		t.Error("the lane does not begin again")
	}
	if msgs, bytes := l.Backlog(); msgs != 0 || bytes != 0 {
		t.Errorf("%d messages with %d bytes wait", msgs, bytes)
	}
}

// A message that is tried again comes before those behind it, but not before an
// earlier one that has come meanwhile.
func TestLanesAgain(t *testing.T) {
	t.Parallel()
	l := dispatch.NewLanes(false)
	five := keyed("a", 5)
	l.Enter(five)
	if d, ok := l.Again(five); !ok || d.Stored.Sequence != 5 {
		t.Errorf("alone: got %v", d.Stored)
	}
	l.Enter(keyed("a", 6))
	if d, ok := l.Again(five); !ok || d.Stored.Sequence != 5 {
		t.Errorf("before a later one: got %v", d.Stored)
	}
	l.Enter(keyed("a", 4))
	if d, ok := l.Again(five); !ok || d.Stored.Sequence != 4 {
		t.Errorf("behind an earlier one: got %v", d.Stored)
	}
	for _, want := range []uint64{5, 6} {
		if d, ok := l.Next("a"); !ok || d.Stored.Sequence != want {
			t.Errorf("got %v, want %d", d.Stored, want)
		}
	}
}

func TestLanesThatAreShut(t *testing.T) {
	t.Parallel()
	l := dispatch.NewLanes(true)
	for _, d := range []wire.Delivery{keyed("a", 3), keyed("b", 5), keyed("a", 1), keyed("b", 4), keyed("c", 2)} {
		if l.Enter(d) {
			t.Fatalf("%d is out", d.Stored.Sequence)
		}
	}
	if got := sequences(l.Open()); !slices.Equal(got, []uint64{1, 2, 4}) {
		t.Errorf("got %v", got)
	}
	if got := l.Open(); len(got) != 0 {
		t.Errorf("opened again they let out %v", sequences(got))
	}
	if d, ok := l.Next("b"); !ok || d.Stored.Sequence != 5 {
		t.Errorf("got %v", d.Stored)
	}
}

// Lanes that are closed again let nothing more out: what is out may end, or come back.
func TestLanesThatAreShutAgain(t *testing.T) {
	t.Parallel()
	l := dispatch.NewLanes(false)
	for _, d := range []wire.Delivery{keyed("a", 1), keyed("a", 2), keyed("b", 3), keyed("b", 4), keyed("c", 5)} {
		l.Enter(d)
	}
	l.Close()
	if d, ok := l.Next("a"); ok {
		t.Errorf("%d came out", d.Stored.Sequence)
	}
	if d, ok := l.Again(keyed("b", 3)); ok {
		t.Errorf("%d came out again", d.Stored.Sequence)
	}
	if _, ok := l.Next("c"); ok || l.Enter(keyed("c", 6)) || l.Enter(keyed("a", 1)) {
		t.Error("a message came out")
	}
	if got := sequences(l.Open()); !slices.Equal(got, []uint64{1, 3, 6}) {
		t.Errorf("got %v", got)
	}
}

func TestLanesStop(t *testing.T) {
	t.Parallel()
	l := dispatch.NewLanes(false)
	for i := range uint64(9) {
		d := keyed(strconv.Itoa(int(i%3)), 9-i)
		d.Stored.Source = int(i % 2)
		l.Enter(d)
	}
	if l.Waiting(0)+l.Waiting(1) != 6 || l.Waiting(1) != 3 || l.Waiting(2) != 0 {
		t.Errorf("%d and %d wait", l.Waiting(0), l.Waiting(1))
	}
	got := sequences(l.Stop())
	slices.Sort(got)
	if !slices.Equal(got, upTo(6)) {
		t.Errorf("stopped with %v", got)
	}
	if msgs, bytes := l.Backlog(); msgs != 0 || bytes != 0 || l.Waiting(1) != 0 || len(l.Open()) != 0 {
		t.Errorf("%d messages with %d bytes wait", msgs, bytes)
	}
	if d, ok := l.Again(keyed("0", 7)); !ok || d.Stored.Sequence != 7 || !l.Enter(keyed("0", 20)) {
		t.Error("a message waits in stopped lanes")
	}
	if _, ok := l.Next("0"); ok {
		t.Error("a message came out of stopped lanes")
	}
}

func upTo(n uint64) (all []uint64) {
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

// Whatever comes in whatever order: of each key one is out at a time, and of those
// that are here the first.
func TestLanesAtRandom(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	l := dispatch.NewLanes(false)
	out := map[string]wire.Delivery{}
	here := map[string][]uint64{}
	done, next := 0, uint64(0)
	const all = 20_000
	for done < all {
		if next < all && r.IntN(2) == 0 {
			next++
			d := keyed(strconv.Itoa(r.IntN(20)), next^7) // nearly in order
			if key := d.Stored.Key; l.Enter(d) {
				if len(here[key]) > 0 {
					t.Fatalf("seed %d: %d is out beside another", seed, next)
				}
				out[key] = d
			}
			here[d.Stored.Key] = append(here[d.Stored.Key], d.Stored.Sequence)
			continue
		}
		for key, d := range out { // any of them
			if r.IntN(4) == 0 {
				out[key], _ = l.Again(d)
				if lowest := slices.Min(here[key]); out[key].Stored.Sequence != lowest {
					t.Fatalf("seed %d: got %d, want %d", seed, out[key].Stored.Sequence, lowest)
				}
				break
			}
			here[key] = slices.DeleteFunc(here[key], func(n uint64) bool { return n == d.Stored.Sequence })
			done++
			delete(out, key)
			following, ok := l.Next(key)
			if ok != (len(here[key]) > 0) || ok && following.Stored.Sequence != slices.Min(here[key]) {
				t.Fatalf("seed %d: after %d came %v, here are %v", seed, d.Stored.Sequence, following.Stored, here[key])
			}
			if ok {
				out[key] = following
			}
			break
		}
	}
}

func BenchmarkLanes(b *testing.B) {
	b.ReportAllocs()
	l := dispatch.NewLanes(false)
	ds := make([]wire.Delivery, 64)
	for i := range ds {
		ds[i] = keyed(strconv.Itoa(i%16), uint64(i))
	}
	for b.Loop() {
		for i := range ds {
			l.Enter(ds[i])
		}
		for i := range 16 {
			for ok := true; ok; {
				_, ok = l.Next(ds[i].Stored.Key)
			}
		}
	}
}

func TestLanesTakeTail(t *testing.T) {
	l := dispatch.NewLanes(false)
	for seq := range uint64(6) {
		if out := l.Enter(keyed("a", seq+1)); out != (seq == 0) {
			t.Fatalf("message %d is out: %v", seq+1, out)
		}
	}
	tail := l.TakeTail("a", 2)
	if len(tail) != 3 || tail[0].Stored.Sequence != 4 || tail[2].Stored.Sequence != 6 {
		t.Errorf("the tail is %v", tail)
	}
	if msgs, _ := l.Backlog(); msgs != 2 || l.Behind("a") != 2 {
		t.Errorf("%d messages wait, %d behind", msgs, l.Behind("a"))
	}
	if tail := l.TakeTail("a", 2); tail != nil {
		t.Errorf("the tail is %v", tail)
	}
	if d, ok := l.Next("a"); !ok || d.Stored.Sequence != 2 {
		t.Errorf("the next one is %v", d)
	}
}

// Of a lane with none out the first message stays: it is the next one.
func TestLanesTakeTailOfClosedLanes(t *testing.T) {
	l := dispatch.NewLanes(true)
	l.Enter(keyed("a", 1))
	l.Enter(keyed("a", 2))
	if tail := l.TakeTail("a", 0); len(tail) != 1 || tail[0].Stored.Sequence != 2 {
		t.Errorf("the tail is %v", tail)
	}
	if tail := l.TakeTail("b", 0); tail != nil {
		t.Errorf("the tail of no lane is %v", tail)
	}
}

// What is let out in a batch goes back behind the one that stays out, in order, and what comes
// meanwhile is sorted in.
func TestLanesTakeMore(t *testing.T) {
	t.Parallel()
	l := dispatch.NewLanes(false)
	for n := uint64(1); n <= 5; n++ {
		l.Enter(keyed("a", n))
	}
	l.Enter(keyed("b", 6))
	if l.Ready() != 4 || l.Keys() != 2 {
		t.Errorf("%d are ready, of %d keys", l.Ready(), l.Keys())
	}
	more := l.TakeMore("a", 3)
	if got := sequencesOf(more); !slices.Equal(got, []uint64{2, 3, 4}) || l.Ready() != 0 || l.Behind("a") != 1 {
		t.Errorf("%v were let out, %d are ready, %d wait", got, l.Ready(), l.Behind("a"))
	}
	if !l.PutBack(more[1:]) || l.Ready() != 0 {
		t.Errorf("%d are ready beside one that has begun", l.Ready())
	}
	if l.TakeMore("x", 1) != nil {
		t.Error("a key without messages has some")
	}
	if d, ok := l.Next("a"); !ok || d.Stored.Sequence != 3 || l.Ready() != 2 {
		t.Errorf("the next is %v, %d are ready", d.Stored, l.Ready())
	}
	if l.Close(); l.Ready() != 0 || l.TakeMore("a", 1) != nil {
		t.Error("closed lanes let something out")
	}
	if _, ok := l.Next("a"); ok {
		t.Error("closed lanes let the next one out")
	}
	if first := l.Open(); !slices.Equal(sequencesOf(first), []uint64{4}) || l.Ready() != 1 {
		t.Errorf("opened, %v are out, %d are ready", sequencesOf(first), l.Ready())
	}
	more = l.TakeMore("a", 9)
	if all := l.Stop(); len(all) != 0 || l.PutBack(more) || l.Ready() != 0 {
		t.Errorf("at the end %v wait, %d are ready", sequencesOf(all), l.Ready())
	}
}

func sequencesOf(ds []wire.Delivery) (all []uint64) {
	for _, d := range ds {
		all = append(all, d.Stored.Sequence)
	}
	return all
}
