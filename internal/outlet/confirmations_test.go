package outlet_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/testserver"
)

// A slow connection does not slow it down: it sends while it waits for confirmations.
func TestAsyncOverASlowConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		const n, trip = 20_000, 20 * time.Millisecond
		l, _, _ := dialTestConn(t, s, trip)
		var f failures
		a, _ := newAsync(l, 4096, &f)
		began := time.Now()
		addAll(t, a, 0, n)
		if unsent := a.Drain(t.Context()); unsent != 0 {
			t.Errorf("%d messages are unsent", unsent)
		}
		// A trip for each batch of 100 would be 4 s.
		if took := time.Since(began); took > n/4096*3*trip || took < trip {
			t.Errorf("it took %v", took)
		}
		f.wantLosses(t)
	})
}

// What the server does not confirm holds it up in the end, so that not more than
// that is in doubt when the connection is lost.
func TestAsyncWaitsForConfirmations(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 300} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testserver.New(t)
				l, latest, blocked := dialTestConn(t, s, 0)
				var f failures
				a, counters := newAsync(l, size, &f)
				latest().dropsWrites.Store(true)
				most := max(size, 100)
				addAll(t, a, 0, most+size)
				synctest.Wait()
				if n := counters.Published.Load(); n != int64(most) || a.Pending() != size {
					t.Errorf("it sent %d, %d are pending, want %d and %d", n, a.Pending(), most, size)
				}
				blocked.Store(true)
				_ = latest().Close()
				synctest.Wait()
				f.wantLosses(t, most)
				if n := a.Pending(); n != 0 { // those wait for the next connection
					t.Errorf("%d are pending", n)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if n := a.Drain(ctx); n != most+size {
					t.Errorf("%d are unsent, want %d", n, most+size)
				}
			})
		})
	}
}

// Messages are lost with the connection that they were handed to, and a flush over
// the next one is no proof of the contrary.
func TestAsyncReportsMessagesLostWithTheConnection(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	got := receive(t, s.Link(t))
	l, latest, blocked := dialTestConn(t, s, 0)
	var f failures
	a, counters := newAsync(l, 1000, &f)
	sent := func(n int64) {
		t.Helper()
		eventually(t, "they are sent", func() bool { return counters.Published.Load() == n })
	}
	addAll(t, a, 0, 10)
	eventually(t, "they came", func() bool { return len(got()) == 10 })
	if err := a.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	latest().dropsWrites.Store(true)
	addAll(t, a, 10, 60)
	sent(60)
	blocked.Store(true)
	_ = latest().Close()
	eventually(t, "the connection is lost", l.Conn().IsReconnecting)
	addAll(t, a, 60, 70) // these wait for the next connection
	sent(70)
	blocked.Store(false)
	eventually(t, "the connection is back", l.Conn().IsConnected)
	addAll(t, a, 70, 80)
	if unsent := a.Drain(t.Context()); unsent < 50 || unsent > 60 { // those of the first ten that were not confirmed yet
		t.Errorf("%d messages are unsent, want the 50 that did not come", unsent)
	}
	eventually(t, "the others came", func() bool { return len(got()) == 30 })
	if n := len(f.counted); n != 1 || f.counted[0] < 50 || f.counted[0] > 60 || len(f.list) > 0 {
		t.Errorf("reported the losses %v and the failures %v", f.counted, f.list)
	}
}

// TestAsyncLosesNothingSilently cuts the connection again and again, with and
// without swallowing before. Whatever did not come must have been counted.
func TestAsyncLosesNothingSilently(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	got := receive(t, s.Link(t))
	l, latest, _ := dialTestConn(t, s, 0)
	var f failures
	const n = 20_000
	a, _ := newAsync(l, n, &f) // there is room without a confirmation, too
	for i := range n {
		addAll(t, a, i, i+1)
		if i%1000 != 999 {
			continue
		}
		eventually(t, "the connection is back", l.Conn().IsConnected) // or what comes back would swallow, too
		latest().dropsWrites.Store(i%2000 == 999)
		addAll(t, a, n+i, n+i+20)
		if err := l.Conn().ForceReconnect(); err != nil {
			t.Fatal(err)
		}
	}
	const accepted = n + n/1000*20
	unsent := a.Drain(t.Context())
	if err := l.Flush(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was confirmed came", func() bool { return len(got()) >= accepted-unsent })
	lost := 0
	for _, k := range f.counted {
		lost += k
	}
	if lost != unsent || len(f.list) > 0 {
		t.Errorf("%d are unsent, it reported %v and %v", unsent, f.counted, f.list)
	}
	all := got()
	slices.Sort(all)
	if len(slices.Compact(all)) != len(all) {
		t.Error("some came twice")
	}
	t.Logf("%d accepted, %d came, %d in doubt", accepted, len(all), unsent)
}
