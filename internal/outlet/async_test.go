package outlet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// numbered is a message to "async" that can be told from others.
func numbered(n int) *outlet.Message {
	return &outlet.Message{Out: wire.Out{Subject: "async", Data: []byte(strconv.Itoa(n))}}
}

// failures collects what an Async could not send.
type failures struct {
	mu      sync.Mutex
	list    []string
	counted []int // what it was told of messages that may be lost
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
		o, turnstile := newHeldSender(t, testserver.New(t))
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
		turnstile.stop()
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
		turnstile.turn()
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
		o, turnstile := newHeldSender(t, testserver.New(t))
		turnstile.stop()
		a = outlet.NewAsync(o.Outlet, new(failures).config(size, wait))
		for i := range size + 1 { // one is out of the buffer
			if err := a.Add(t.Context(), numbered(i)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		o.link.Close()
		return a, turnstile.turn
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

func TestAsyncReportsWhatItCannotSend(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	o := newSender(t, s)
	var f failures
	a := outlet.NewAsync(o.Outlet, f.config(10, true))
	for i := range 5 {
		if i == 3 {
			a.Drain(t.Context())
			break
		}
		if err := a.Add(t.Context(), &outlet.Message{Out: wire.Out{Subject: "", Data: []byte(strconv.Itoa(i))}}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(f.list, []string{"0", "1", "2"}) {
		t.Errorf("reported %v", f.list)
	}
	if n := a.Drain(t.Context()); n != 3 {
		t.Errorf("Drain counts %d messages as unsent, want 3", n)
	}
}

// A server that hangs must not hold up Drain beyond its context, and what it did
// not confirm is counted.
func TestAsyncDrainGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		deaf := newDeaf(t)
		var f failures
		o := outlet.New(deaf.link, nil, new(telemetry.Bus))
		a := outlet.NewAsync(o, f.config(1000, true))
		deaf.hang()
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

// turnstile holds up who sends, where the trace is written into the message.
type turnstile struct {
	propagation.TraceContext
	stopped atomic.Bool
	turned  chan struct{}
}

func (h *turnstile) stop() { h.stopped.Store(true) }
func (h *turnstile) turn() { close(h.turned) }

func (h *turnstile) Inject(context.Context, propagation.TextMapCarrier) {
	if h.stopped.Load() {
		<-h.turned
	}
}

// newHeldSender returns a sender with a turnstile, which is open.
func newHeldSender(t *testing.T, s *testserver.Server) (*sender, *turnstile) {
	t.Helper()
	h := &turnstile{turned: make(chan struct{})}
	tel, err := telemetry.New(telemetry.Config{TracerProvider: oteltest.New().TracerProvider(), Propagator: h})
	if err != nil {
		t.Fatal(err)
	}
	o := &sender{link: s.Link(t)}
	o.Outlet = outlet.New(o.link, tel, &o.counters)
	return o, h
}

// deaf is a connection through which, once it hangs, nothing comes back.
type deaf struct {
	link *link.Link
	hung atomic.Bool
}

func newDeaf(t *testing.T) *deaf {
	t.Helper()
	d := new(deaf)
	s := testserver.New(t)
	l, err := link.Dial(t.Context(), link.Config{
		URL: link.EmbeddedURL, Timeout: 5 * time.Second,
		InProcess: func() (net.Conn, error) {
			c, err := s.InProcessConn()
			return &deafConn{Conn: c, hung: &d.hung}, err
		},
		Disconnected: func(error) {}, Reconnected: func() {}, Closed: func() {}, Failed: func(string, error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	d.link = l
	return d
}

func (d *deaf) hang() { d.hung.Store(true) }

type deafConn struct {
	net.Conn
	hung *atomic.Bool
}

// Write swallows what is written, so nothing is answered.
func (c *deafConn) Write(p []byte) (int, error) {
	if c.hung.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// way is a connection that a test can bend. It stays as it was made when the link
// dials again.
type way struct {
	net.Conn
	swallows atomic.Bool   // what is written
	late     time.Duration // what is read
	stopped  chan struct{} // closed: writes go on; nil: they do
	holds    atomic.Bool   // writes, until stopped is closed
}

func (w *way) Write(p []byte) (int, error) {
	if w.swallows.Load() {
		return len(p), nil
	}
	if w.holds.Load() {
		<-w.stopped
		return 0, net.ErrClosed
	}
	return w.Conn.Write(p)
}

func (w *way) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err == nil {
		time.Sleep(w.late)
	}
	return n, err
}

// bent returns a link over a way, which is the latest one. Where blocked it dials
// no more.
func bent(t *testing.T, s *testserver.Server, late time.Duration) (l *link.Link, latest func() *way, blocked *atomic.Bool) {
	t.Helper()
	var last atomic.Pointer[way]
	blocked = new(atomic.Bool)
	l, err := link.Dial(t.Context(), link.Config{
		URL: link.EmbeddedURL, Timeout: 5 * time.Second,
		InProcess: func() (net.Conn, error) {
			if blocked.Load() {
				return nil, errors.New("blocked")
			}
			c, err := s.InProcessConn()
			w := &way{Conn: c, late: late, stopped: make(chan struct{})}
			last.Store(w)
			return w, err
		},
		Disconnected: func(error) {}, Reconnected: func() {}, Closed: func() {}, Failed: func(string, error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		time.Sleep(late) // for a read that was late
	})
	return l, last.Load, blocked
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

// A long way to the server and back does not slow it down: it goes on while it
// waits for confirmations.
func TestAsyncOverALongWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		const n, trip = 20_000, 20 * time.Millisecond
		l, _, _ := bent(t, s, trip)
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
		f.expect(t)
	})
}

// expect fails the test unless f was told of these losses, and of nothing else.
func (f *failures) expect(t *testing.T, lost ...int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.list) > 0 || !slices.Equal(f.counted, lost) {
		t.Errorf("told of the failures %v and the losses %v, want the losses %v", f.list, f.counted, lost)
	}
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
				l, latest, blocked := bent(t, s, 0)
				var f failures
				a, counters := newAsync(l, size, &f)
				latest().swallows.Store(true)
				most := max(size, 100)
				addAll(t, a, 0, most+size)
				synctest.Wait()
				if n := counters.Published.Load(); n != int64(most) || a.Pending() != size {
					t.Errorf("it sent %d, %d are pending, want %d and %d", n, a.Pending(), most, size)
				}
				blocked.Store(true)
				_ = latest().Close()
				synctest.Wait()
				f.expect(t, most)
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
func TestAsyncTellsWhatIsLostWithTheConnection(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	got := receive(t, s.Link(t))
	l, latest, blocked := bent(t, s, 0)
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
	latest().swallows.Store(true)
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
		t.Errorf("told of the losses %v and the failures %v", f.counted, f.list)
	}
}

// TestAsyncLosesNothingSilently cuts the connection again and again, with and
// without swallowing before. Whatever did not come must have been counted.
func TestAsyncLosesNothingSilently(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	got := receive(t, s.Link(t))
	l, latest, _ := bent(t, s, 0)
	var f failures
	const n = 20_000
	a, _ := newAsync(l, n, &f) // there is room without a confirmation, too
	for i := range n {
		addAll(t, a, i, i+1)
		if i%1000 != 999 {
			continue
		}
		eventually(t, "the connection is back", l.Conn().IsConnected) // or what comes back would swallow, too
		latest().swallows.Store(i%2000 == 999)
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
		t.Errorf("%d are unsent, it told of %v and %v", unsent, f.counted, f.list)
	}
	all := got()
	slices.Sort(all)
	if len(slices.Compact(all)) != len(all) {
		t.Error("some came twice")
	}
	t.Logf("%d accepted, %d came, %d in doubt", accepted, len(all), unsent)
}

// Whoever is told of a failure may end what failed, or take his time.
func TestAsyncWhoIsToldMayEndIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newSender(t, testserver.New(t))
		o.link.Close()
		var a *outlet.Async
		unsent := make(chan int, 1)
		ready := make(chan struct{})
		a = outlet.NewAsync(o.Outlet, outlet.AsyncConfig{Size: 10, Wait: true, Lost: func(int) {}, Failed: func(m *outlet.Message, _ error) {
			if string(m.Data) != "0" {
				return
			}
			<-ready
			ctx := dispatch.FromCaller(t.Context())
			if !a.IsReporting(ctx) || a.IsReporting(t.Context()) {
				t.Error("it does not know who calls")
			}
			unsent <- a.Drain(ctx)
		}})
		began := time.Now()
		addAll(t, a, 0, 3)
		close(ready)
		if n := <-unsent; n != 3 || time.Since(began) != 0 {
			t.Errorf("%d are unsent, after %v", n, time.Since(began))
		}
		if n := a.Drain(t.Context()); n != 3 { // waits for the others to be told
			t.Errorf("%d are unsent", n)
		}
	})
}

func TestAsyncGoesOnWhileSomebodyIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		got := receive(t, s.Link(t))
		const most = 1000 // are told one by one
		release := make(chan struct{})
		var failed, counted atomic.Int64
		a := outlet.NewAsync(newSender(t, s).Outlet, outlet.AsyncConfig{Size: 10, Wait: true,
			Failed: func(*outlet.Message, error) {
				<-release
				failed.Add(1)
			},
			Lost: func(n int) { counted.Add(int64(n)) },
		})
		bad := &outlet.Message{} // without a subject
		for i := range 3 * most {
			if err := errors.Join(a.Add(t.Context(), bad), a.Add(t.Context(), numbered(i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := len(got()); n != 3*most {
			t.Errorf("%d messages came, want %d", n, 3*most)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if n := a.Drain(ctx); n != 3*most || time.Since(began) != time.Second {
			t.Errorf("%d are unsent, after %v", n, time.Since(began))
		}
		close(release)
		a.Drain(t.Context())
		if f, c := failed.Load(), counted.Load(); f != most+1 || f+c != 3*most { // one is being told
			t.Errorf("told of %d messages, and of %d more, want %d", f, c, most+1)
		}
	})
}

// A peer that takes nothing holds up no Drain beyond its context.
func TestAsyncDrainGivesUpOnAPeerThatTakesNothing(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	l, latest, _ := bent(t, s, 0)
	var f failures
	a, _ := newAsync(l, 100, &f)
	w := latest()
	w.holds.Store(true)
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
	close(w.stopped)
	l.Close()
	select {
	case <-a.Done():
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
}
