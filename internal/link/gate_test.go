package link_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/link"
)

func TestGate(t *testing.T) {
	t.Parallel()
	g := link.NewGate()
	for range 3 { // as often as one likes
		if !g.Open() {
			t.Fatal("a new gate is shut")
		}
		if err := g.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.Leave()
	}
	if err := g.Shut(t.Context()); err != nil {
		t.Errorf("Shut with nobody inside: %v", err)
	}
	if g.Open() {
		t.Error("it is open after Shut")
	}
	for range 3 {
		if err := g.Enter(t.Context()); !errors.Is(err, link.ErrShut) {
			t.Errorf("Enter after Shut: %v", err)
		}
	}
	if err := g.Shut(t.Context()); err != nil {
		t.Errorf("Shut again: %v", err)
	}
}

// shutting calls g.Shut and returns where its result comes.
func shutting(ctx context.Context, g *link.Gate) <-chan error {
	result := make(chan error, 1)
	go func() { result <- g.Shut(ctx) }()
	return result
}

// returned says whether a result is there, and which, once nothing moves.
func returned(result <-chan error) (ok bool, err error) {
	synctest.Wait()
	select {
	case err := <-result:
		return true, err
	default:
		return false, nil
	}
}

func TestShutWaitsForThoseInside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := link.NewGate()
		for range 2 {
			if err := g.Enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		first, second := shutting(t.Context(), g), shutting(t.Context(), g)
		if ok, _ := returned(first); ok || g.Open() {
			t.Fatalf("with two inside: returned %t, open %t", ok, g.Open())
		}
		// Who comes too late must not be taken for one who leaves.
		for range 3 {
			if err := g.Enter(t.Context()); !errors.Is(err, link.ErrShut) {
				t.Fatalf("Enter while it shuts: %v", err)
			}
		}
		g.Leave()
		if ok, _ := returned(first); ok {
			t.Fatal("returned with one inside")
		}
		g.Leave()
		for _, result := range []<-chan error{first, second, shutting(t.Context(), g)} {
			if ok, err := returned(result); err != nil || !ok {
				t.Errorf("with nobody inside: returned %t, %v", ok, err)
			}
		}
	})
}

// An impatient Shut shuts the gate all the same, and may be called again.
func TestShutThatGivesUp(t *testing.T) {
	t.Parallel()
	reason := errors.New("no time")
	for _, tc := range []struct {
		name string
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		want error
	}{
		{"at once", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(reason)
			return ctx, func() {}
		}, reason},
		{"after a while", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Minute)
		}, context.DeadlineExceeded},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := link.NewGate()
				if err := g.Enter(t.Context()); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := tc.ctx(t.Context())
				defer cancel()
				if err := g.Shut(ctx); !errors.Is(err, tc.want) {
					t.Errorf("Shut returned %v, want %v", err, tc.want)
				}
				if err := g.Enter(t.Context()); g.Open() || !errors.Is(err, link.ErrShut) {
					t.Errorf("the gate is open after it gave up: %t, %v", g.Open(), err)
				}
				result := shutting(t.Context(), g)
				if ok, _ := returned(result); ok {
					t.Error("the second Shut did not wait")
				}
				g.Leave()
				if ok, err := returned(result); err != nil || !ok {
					t.Errorf("the second Shut: returned %t, %v", ok, err)
				}
			})
		})
	}
}

// With nobody inside there is nothing to wait for, so an ended context does not
// make it fail. One answer in two would be wrong if chance decided.
func TestShutOfAnEmptyGateWithAnEndedContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	failed := 0
	for range 100 {
		if err := link.NewGate().Shut(ctx); err != nil {
			failed++
		}
	}
	if failed > 0 {
		t.Errorf("%d of 100 returned an error", failed)
	}
}

// TestGateUnderLoad has many pass while several shut it. Once a Shut has
// returned nobody is inside and nobody gets in; the race detector sees that what
// they did inside happened before.
func TestGateUnderLoad(t *testing.T) {
	t.Parallel()
	const publishers, closers = 8, 4
	g := link.NewGate()
	var done [publishers]int // written inside without a lock
	var wg sync.WaitGroup
	var passed atomic.Int64
	enough := make(chan struct{})
	for p := range publishers {
		wg.Go(func() {
			for g.Enter(t.Context()) == nil {
				done[p]++
				g.Leave()
				if passed.Add(1) == 1000 {
					close(enough)
				}
			}
		})
	}
	var sums [closers]int
	for c := range closers {
		wg.Go(func() {
			<-enough
			if err := g.Shut(t.Context()); err != nil {
				t.Error(err)
			}
			for _, n := range done {
				sums[c] += n
			}
		})
	}
	wg.Wait()
	for _, sum := range sums {
		if int64(sum) != passed.Load() || sum < 1000 {
			t.Errorf("%d had passed when Shut returned, %d in the end", sum, passed.Load())
		}
	}
}

// entering calls g.Enter and returns where its result comes.
func entering(ctx context.Context, g *link.Gate) <-chan error {
	result := make(chan error, 1)
	go func() { result <- g.Enter(ctx) }()
	return result
}

// A held gate lets nobody in, and nobody fails. Hold waits for those inside.
func TestHoldAndRelease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := link.NewGate()
		g.Release() // of a gate that is not held
		if err := g.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		held := make(chan error, 2)
		for range 2 {
			go func() { held <- g.Hold(t.Context()) }()
		}
		if ok, _ := returned(held); ok || !g.Open() || g.Inside() != 1 {
			t.Fatalf("with one inside: returned %t, open %t, %d inside", ok, g.Open(), g.Inside())
		}
		waits, passes := entering(t.Context(), g), make(chan error, 1)
		go func() { passes <- g.Pass(t.Context()) }()
		if ok, err := returned(waits); ok {
			t.Fatalf("a held gate let one in: %v", err)
		}
		if ok, err := returned(passes); ok {
			t.Fatalf("a held gate let one pass: %v", err)
		}
		if err := g.TryEnter(); !errors.Is(err, link.ErrHeld) {
			t.Errorf("TryEnter returned %v", err)
		}
		g.Leave()
		for range 2 {
			if ok, err := returned(held); !ok || err != nil {
				t.Errorf("with nobody inside: returned %t, %v", ok, err)
			}
		}
		g.Release()
		if ok, err := returned(waits); !ok || err != nil {
			t.Errorf("after Release: returned %t, %v", ok, err)
		}
		if ok, err := returned(passes); !ok || err != nil {
			t.Errorf("after Release: passed %t, %v", ok, err)
		}
		g.Leave()
		if err := g.Hold(t.Context()); err != nil { // again
			t.Error(err)
		}
		g.Release()
		if err := g.Enter(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Who waits at a held gate does so within its context. A Hold whose context ends leaves
// the gate held.
func TestHoldWithContexts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := link.NewGate()
		if err := g.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		reason := errors.New("no time")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(reason)
		if err := g.Hold(ctx); !errors.Is(err, reason) {
			t.Errorf("Hold returned %v", err)
		}
		short, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		began := time.Now()
		if err := g.Enter(short); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("Enter returned %v after %v", err, time.Since(began))
		}
		if err := g.Pass(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Pass returned %v", err)
		}
		if g.Inside() != 1 {
			t.Errorf("%d are inside", g.Inside())
		}
	})
}

// Shut ends a hold: those who wait find the gate shut, and it cannot be held again.
func TestShutWhileHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := link.NewGate()
		if err := g.Hold(t.Context()); err != nil {
			t.Fatal(err)
		}
		waits := entering(t.Context(), g)
		if ok, _ := returned(waits); ok {
			t.Fatal("a held gate let one in")
		}
		if err := g.Shut(t.Context()); err != nil {
			t.Error(err)
		}
		if ok, err := returned(waits); !ok || !errors.Is(err, link.ErrShut) {
			t.Errorf("Enter returned %t, %v", ok, err)
		}
		if err := g.Pass(t.Context()); !errors.Is(err, link.ErrShut) {
			t.Errorf("Pass returned %v", err)
		}
		if err := g.Hold(t.Context()); !errors.Is(err, link.ErrShut) {
			t.Errorf("Hold returned %v", err)
		}
		g.Release()
		if g.Open() {
			t.Error("Release opened it")
		}
	})
}

// While the gate is held nobody is inside, however many come and go, and nobody fails.
func TestHoldUnderLoad(t *testing.T) {
	t.Parallel()
	const publishers, holders, rounds = 8, 2, 50
	g := link.NewGate()
	var inside atomic.Int64
	var publishing, holding sync.WaitGroup
	stop := make(chan struct{})
	for range publishers {
		publishing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := g.Enter(t.Context()); err != nil {
					t.Error(err)
					return
				}
				inside.Add(1)
				inside.Add(-1)
				g.Leave()
			}
		})
	}
	var turn sync.Mutex // one hold at a time, as the registry does
	for range holders {
		holding.Go(func() {
			for range rounds {
				turn.Lock()
				if err := g.Hold(t.Context()); err != nil {
					t.Error(err)
				}
				if n := inside.Load(); n != 0 {
					t.Errorf("%d are inside a held gate", n)
				}
				g.Release()
				turn.Unlock()
			}
		})
	}
	holding.Wait()
	close(stop)
	publishing.Wait()
}
