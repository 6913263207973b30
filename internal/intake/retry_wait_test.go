package intake

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

var dawn = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return dawn.Add(time.Duration(seconds) * time.Second) }

// numbered is a message that can be reported from others.
func numbered(n int) wire.Delivery { return wire.Delivery{Number: int64(n)} }

func numbers(ds []wire.Delivery) []int {
	ns := []int{}
	for _, d := range ds {
		ns = append(ns, int(d.Number))
	}
	return ns
}

func TestRetryWaitIsEmptyAtFirst(t *testing.T) {
	t.Parallel()
	var w retryWait
	if _, ok := w.next(); ok || w.len() != 0 || len(w.ripe(at(1e6))) != 0 || len(w.all()) != 0 {
		t.Error("an empty list holds something")
	}
}

func TestRetryWaitReturnsTheRipeOnesEarliestFirst(t *testing.T) {
	t.Parallel()
	var w retryWait
	for _, second := range []int{5, 1, 4, 2, 3} {
		w.add(at(second), numbered(second))
	}
	for _, step := range []struct {
		second int
		want   []int
		left   int
		next   int // second at which the earliest of those is due
	}{
		{second: 0, want: []int{}, left: 5, next: 1},
		{second: 3, want: []int{1, 2, 3}, left: 2, next: 4}, // due at the very moment counts
		{second: 3, want: []int{}, left: 2, next: 4},
		{second: 9, want: []int{4, 5}, left: 0},
	} {
		if got := numbers(w.ripe(at(step.second))); !slices.Equal(got, step.want) {
			t.Errorf("at second %d: %v are ripe, want %v", step.second, got, step.want)
		}
		next, ok := w.next()
		if w.len() != step.left || ok != (step.left > 0) || ok && !next.Equal(at(step.next)) {
			t.Errorf("after second %d: %d wait, the next until %v (%v)", step.second, w.len(), next, ok)
		}
	}
}

func TestRetryWaitAllEmptiesIt(t *testing.T) {
	t.Parallel()
	var w retryWait
	for i := range 10 {
		w.add(at(10-i), numbered(i))
	}
	all := numbers(deliveries(w.all()))
	slices.Sort(all)
	if !slices.Equal(all, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}) || w.len() != 0 {
		t.Errorf("all returned %v and left %d", all, w.len())
	}
	w.add(at(1), numbered(77))
	if got := numbers(w.ripe(at(1))); !slices.Equal(got, []int{77}) {
		t.Errorf("after all, the list returns %v", got)
	}
}

func TestRetryWaitAgainstASortedList(t *testing.T) {
	t.Parallel()
	type item struct{ second, number int }
	rnd := rand.New(rand.NewPCG(3, 4))
	var w retryWait
	var model []item
	now := 0
	for i := range 20_000 {
		if rnd.IntN(3) > 0 {
			it := item{now + rnd.IntN(500), i}
			w.add(at(it.second), numbered(it.number))
			model = append(model, it)
			continue
		}
		now += rnd.IntN(20)
		slices.SortFunc(model, func(a, b item) int { return cmp.Compare(a.second, b.second) })
		n := 0
		var want []int
		for n < len(model) && model[n].second <= now {
			want = append(want, model[n].number)
			n++
		}
		model = model[n:]
		got := numbers(w.ripe(at(now)))
		slices.Sort(got) // those due at the same second come in any order
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("step %d: %v are ripe, want %v", i, got, want)
		}
		if w.len() != len(model) {
			t.Fatalf("step %d: %d wait, want %d", i, w.len(), len(model))
		}
	}
}

func TestRetryWaitLetsGoOfPayloads(t *testing.T) {
	t.Parallel()
	var w retryWait
	for i := range 64 {
		w.add(at(i), wire.Delivery{In: wire.In{Data: []byte("payload")}})
	}
	w.ripe(at(60))
	for _, d := range w.h[len(w.h):cap(w.h)] {
		if d.d.Data != nil {
			t.Fatal("the list holds on to the payload of a message that it returned")
		}
	}
}

func deliveries(all []due) []wire.Delivery {
	var ds []wire.Delivery
	for i := range all {
		ds = append(ds, all[i].d)
	}
	return ds
}

// A message that waits for earlier ones of its key is looked at less and less often, and at once when
// one of them comes back. A failed one keeps its pause.
func TestRecheck(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]time.Duration{1: 5 * time.Millisecond, 2: 20 * time.Millisecond, 5: 1280 * time.Millisecond, 6: 5 * time.Second, math.MaxInt: 5 * time.Second} {
		if got := recheckPause(n); got != want {
			t.Errorf("after %d looks the pause is %v, want %v", n, got, want)
		}
	}
	for _, tc := range []struct {
		name     string
		rechecks int
		comes    *wire.Delivery
		hurries  bool
	}{
		{"it comes back", 1, fromSource(1, 3), true},
		{"another message", 1, fromSource(0, 9), false},
		{"a failed one", 0, fromSource(1, 3), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := newTestFollowers(nil).k
			waits := fromSource(0, 7)
			waits.Stored.Rechecks = tc.rechecks
			later := time.Now().Add(time.Hour)
			k.d.waiting.add(later.Add(-time.Minute), *fromSource(0, 8))
			k.d.waiting.add(later, *waits)
			k.enterLocked(*tc.comes)
			first := k.d.waiting.h[0]
			if hurried := first.d.Stored.Sequence == 7 && first.at.Before(later); hurried != tc.hurries {
				t.Errorf("message %d is next, at %v", first.d.Stored.Sequence, first.at)
			}
		})
	}
}
