package outlet_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// numbered returns a message to "async" with a number as payload.
func numbered(n int) *outlet.Message {
	return &outlet.Message{Out: wire.Out{Subject: "async", Data: []byte(strconv.Itoa(n))}}
}

// failures collects what an Async could not send.
type failures struct {
	mu      sync.Mutex
	list    []string
	counted []int // the calls of Lost
}

// config is one of an Async with room for size messages that reports to f.
func (f *failures) config(size int, wait bool) outlet.AsyncConfig {
	return outlet.AsyncConfig{Size: size, Wait: wait, Failed: f.add, Lost: f.lost}
}

func (f *failures) lost(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counted = append(f.counted, n)
}

func (f *failures) add(m *outlet.Message, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, string(m.Data))
}

// receive collects what is published to "async".
func receive(t *testing.T, l *link.Link) func() []string {
	t.Helper()
	var mu sync.Mutex
	var got []string
	_, err := l.Conn().Subscribe("async", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(m.Data))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(got)
	}
}

func TestAsyncSendsAllInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		got := receive(t, s.Link(t))
		o := newSender(t, s)
		var f failures
		a := outlet.NewAsync(o.Outlet, f.config(64, true))
		var want []string
		for i := range 1000 {
			want = append(want, strconv.Itoa(i))
			if err := a.Add(t.Context(), numbered(i)); err != nil {
				t.Fatal(err)
			}
		}
		if n := a.Drain(t.Context()); n != 0 {
			t.Errorf("%d messages did not reach the server for certain", n)
		}
		synctest.Wait()
		if !slices.Equal(got(), want) {
			t.Errorf("%d messages came, or in another order", len(got()))
		}
		if len(f.list) > 0 || a.Pending() != 0 || o.counters.Published.Load() != 1000 {
			t.Errorf("failed: %v, pending: %d, counted: %d", f.list, a.Pending(), o.counters.Published.Load())
		}
	})
}

// What is in the buffer goes out at once, not when something follows it.
func TestAsyncSendsASingleMessageAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		got := receive(t, s.Link(t))
		a := outlet.NewAsync(newSender(t, s).Outlet, new(failures).config(64, true))
		began := time.Now()
		for i := range 3 {
			if err := a.Add(t.Context(), numbered(i)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if len(got()) != i+1 {
				t.Errorf("%d of %d messages came", len(got()), i+1)
			}
		}
		if !time.Now().Equal(began) {
			t.Error("it took time")
		}
		a.Drain(t.Context())
	})
}

// Flush waits for what was added before, and only for that.
func TestAsyncFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, propagator := newBlockableSender(t, testserver.New(t))
		a := outlet.NewAsync(o.Outlet, new(failures).config(2, true))
		if err := a.Flush(t.Context()); err != nil {
			t.Errorf("an unused one: %v", err)
		}
		if err := a.Add(t.Context(), numbered(0)); err != nil {
			t.Fatal(err)
		}
		if err := a.Flush(t.Context()); err != nil || o.counters.Published.Load() != 1 {
			t.Errorf("%v, %d sent", err, o.counters.Published.Load())
		}
		propagator.block()
		if err := a.Add(t.Context(), numbered(1)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it did not wait: %v", err)
		}
		flushed := make(chan error)
		go func() { flushed <- a.Flush(t.Context()) }()
		synctest.Wait()
		gaveUp, stop := context.WithCancel(t.Context())
		stop()
		go a.Drain(gaveUp)
		synctest.Wait()
		propagator.unblock()
		if err := <-flushed; !errors.Is(err, outlet.ErrEnded) {
			t.Errorf("abandoned: %v", err)
		}
		if err := a.Flush(t.Context()); !errors.Is(err, outlet.ErrEnded) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestAsyncConcurrently(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	to := s.Link(t)
	got := receive(t, to)
	a := outlet.NewAsync(newSender(t, s).Outlet, new(failures).config(16, true))
	const publishers, each = 8, 500
	var accepted atomic.Int64
	var wg sync.WaitGroup
	half := make(chan struct{})
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				err := a.Add(t.Context(), numbered(p*each+i))
				if err == nil && accepted.Add(1) == publishers*each/2 {
					close(half)
				}
				if err != nil && !errors.Is(err, outlet.ErrEnded) {
					t.Errorf("Add returned %v", err)
				}
			}
		})
	}
	<-half
	if n := a.Drain(t.Context()); n != 0 {
		t.Errorf("%d messages did not reach the server for certain", n)
	}
	wg.Wait()
	n := accepted.Load()
	if err := to.Flush(t.Context(), time.Second); err != nil { // what was sent before has arrived
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(got()) < int(n) && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	all := got()
	slices.Sort(all)
	if len(all) != int(n) || len(slices.Compact(all)) != int(n) {
		t.Errorf("%d messages were accepted, %d came", n, len(all))
	}
}

func TestAsyncWhenFull(t *testing.T) {
	t.Parallel()
	const size = 4
	// full returns an Async whose buffer is full and whose goroutine is held up.
	// When it is released it cannot send anything.
	full := func(t *testing.T, wait bool) (a *outlet.Async, release func()) {
		o, propagator := newBlockableSender(t, testserver.New(t))
		propagator.block()
		a = outlet.NewAsync(o.Outlet, new(failures).config(size, wait))
		for i := range size + 1 { // one is out of the buffer
			if err := a.Add(t.Context(), numbered(i)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		o.link.Close()
		return a, propagator.unblock
	}
	run := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, f)
		})
	}
	run("refuses where it must not wait", func(t *testing.T) {
		a, release := full(t, false)
		if err := a.Add(t.Context(), numbered(9)); !errors.Is(err, outlet.ErrFull) {
			t.Errorf("got %v", err)
		}
		if a.Pending() != size {
			t.Errorf("%d messages are in the buffer", a.Pending())
		}
		release()
		if n := a.Drain(t.Context()); n != size+1 {
			t.Errorf("Drain counts %d messages as unsent, want %d", n, size+1)
		}
	})
	run("waits until its context ends", func(t *testing.T) {
		a, release := full(t, true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		if err := a.Add(ctx, numbered(9)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		release()
		a.Drain(t.Context())
	})
	run("waits until there is room", func(t *testing.T) {
		a, release := full(t, true)
		time.AfterFunc(time.Second, release)
		if err := a.Add(t.Context(), numbered(9)); err != nil {
			t.Errorf("got %v", err)
		}
		a.Drain(t.Context())
	})
	run("lets go of who waits when it ends", func(t *testing.T) {
		a, release := full(t, true)
		errs := make(chan error, 10)
		for range cap(errs) {
			go func() { errs <- a.Add(t.Context(), numbered(9)) }()
		}
		synctest.Wait()
		time.AfterFunc(time.Second, release)
		n := a.Drain(t.Context())
		accepted := 0
		for range cap(errs) {
			switch err := <-errs; {
			case err == nil:
				accepted++
			case !errors.Is(err, outlet.ErrEnded):
				t.Errorf("got %v", err)
			}
		}
		if n != size+1+accepted {
			t.Errorf("Drain counts %d messages as unsent of %d accepted", n, size+1+accepted)
		}
	})
}

func TestAsyncAfterItsEnd(t *testing.T) {
	t.Parallel()
	for _, used := range []bool{true, false} {
		t.Run(fmt.Sprintf("used=%v", used), func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			a := outlet.NewAsync(newSender(t, s).Outlet, new(failures).config(4, true))
			if used {
				if err := a.Add(t.Context(), numbered(1)); err != nil {
					t.Fatal(err)
				}
			}
			var wg sync.WaitGroup
			for range 10 { // at the same time
				wg.Go(func() {
					if n := a.Drain(t.Context()); n != 0 {
						t.Errorf("%d messages are unsent", n)
					}
				})
			}
			wg.Wait()
			if err := a.Add(t.Context(), numbered(2)); !errors.Is(err, outlet.ErrEnded) {
				t.Errorf("Add returned %v", err)
			}
		})
	}
}

// A server that hangs must not hold up Drain beyond its context, and what it did
// not confirm is counted.
func TestAsyncDrainGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		silent := newSilentLink(t)
		var f failures
		o := outlet.New(silent.link, nil, new(telemetry.Bus))
		a := outlet.NewAsync(o, f.config(1000, true))
		silent.silence()
		for i := range 250 {
			if err := a.Add(t.Context(), numbered(i)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		n := a.Drain(ctx)
		if took := time.Since(began); took > time.Second {
			t.Errorf("Drain took %v, its context had a second", took)
		}
		if n != 250 {
			t.Errorf("Drain counts %d messages as unsent, want 250", n)
		}
		if len(f.list) > 0 {
			t.Errorf("reported as failed: %v", f.list)
		}
	})
}

func newAsync(l *link.Link, size int, f *failures) (*outlet.Async, *telemetry.Bus) {
	var counters telemetry.Bus
	return outlet.NewAsync(outlet.New(l, nil, &counters), f.config(size, true)), &counters
}

// addAll adds the messages from first to one before end.
func addAll(t *testing.T, a *outlet.Async, first, end int) {
	t.Helper()
	for i := first; i < end; i++ {
		if err := a.Add(t.Context(), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// eventually waits until cond holds, for what nothing announces.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("did not happen: " + what)
		}
	}
}

// wantLosses fails the test unless exactly these losses were reported, and no failures.
func (f *failures) wantLosses(t *testing.T, lost ...int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.list) > 0 || !slices.Equal(f.counted, lost) {
		t.Errorf("reported the failures %v and the losses %v, want the losses %v", f.list, f.counted, lost)
	}
}

// A peer that takes nothing holds up no Drain beyond its context.
func TestAsyncDrainGivesUpOnAPeerThatTakesNothing(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	l, latest, _ := dialTestConn(t, s, 0)
	var f failures
	a, _ := newAsync(l, 100, &f)
	w := latest()
	w.blocksWrites.Store(true)
	addAll(t, a, 0, 50)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if n := a.Drain(ctx); n != 50 {
		t.Errorf("%d are unsent, want 50", n)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Drain took %v, its context had 50 ms", took)
	}
	close(w.released)
	l.Close()
	select {
	case <-a.Done():
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
}
