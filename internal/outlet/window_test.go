package outlet_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
	"github.com/omnibus-go/bus/internal/testserver"
)

func add(t *testing.T, w *outlet.Window, id string, within time.Duration) *outlet.Future {
	t.Helper()
	r := &outlet.Future{Message: *message(id), Deadline: time.Now().Add(within)}
	if err := w.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return r
}

// What is not answered is sent every two seconds with an ID, and once without.
func TestWindowRepeats(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]int64{"": 1, "x": 30} {
		t.Run("id="+id, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testserver.New(t)
				var tries atomic.Int64
				stream(t, s, func(int, *nats.Msg) string { tries.Add(1); return "" })
				w := outlet.NewWindow(newSender(t, s).Outlet, 1)
				began := time.Now()
				_, _, err := add(t, w, id, time.Minute).Wait(context.Background())
				if !errors.Is(err, outlet.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				if n := tries.Load(); n != want {
					t.Errorf("sent %d times, want %d", n, want)
				}
				w.Close()
			})
		})
	}
}

// A future whose outcome is known keeps no payload, whatever the outcome is.
func TestFutureFreesItsPayload(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	stream(t, s, func(_ int, m *nats.Msg) string {
		switch m.Header.Get("Nats-Msg-Id") {
		case "stored":
			return ackText
		case "refused":
			return `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"}}`
		}
		return ""
	})
	w := outlet.NewWindow(newSender(t, s).Outlet, 10)
	for _, id := range []string{"stored", "refused", "lost"} {
		f := add(t, w, id, 200*time.Millisecond)
		if _, _, err := f.Wait(t.Context()); (err == nil) != (id == "stored") {
			t.Errorf("%s: %v", id, err)
		}
		if f.Message.Data != nil || f.Message.Header != nil || f.Message.ID != id {
			t.Errorf("%s: the future keeps %+v", id, f.Message)
		}
	}
	w.Close()
}

// Without a connection messages wait in the window, and it is certain that they are
// not stored when their time is over. Not in a bubble: nats.go takes a timer from the
// pool of the process when it comes back.
func TestWindowWithoutAConnection(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	got := make(chan string, 10)
	stream(t, s, func(_ int, m *nats.Msg) string { got <- m.Header.Get("Nats-Msg-Id"); return ackText })
	l, latest, blocked := dialTestConn(t, s, 0)
	w := outlet.NewWindow(outlet.New(l, nil, new(telemetry.Bus)), 10)
	if _, _, err := add(t, w, "0", time.Minute).Wait(t.Context()); err != nil {
		t.Error(err)
	}
	lost := l.Conn().StatusChanged(nats.RECONNECTING)
	blocked.Store(true)
	_ = latest().Close()
	<-lost
	short := add(t, w, "short", 50*time.Millisecond)
	first, second := add(t, w, "1", time.Minute), add(t, w, "2", time.Minute)
	_, _, err := short.Wait(context.Background())
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, outlet.ErrUnknown) {
		t.Errorf("got %v, want no doubt that it is not stored", err)
	}
	if n, _ := l.Conn().Buffered(); n != 0 {
		t.Errorf("%d bytes wait for the next connection", n)
	}
	blocked.Store(false)
	for _, r := range []*outlet.Future{second, first} {
		if _, _, err := r.Wait(context.Background()); err != nil {
			t.Error(err)
		}
	}
	for _, want := range []string{"0", "1", "2"} {
		if id := <-got; id != want {
			t.Errorf("sent %s, want %s", id, want)
		}
	}
	w.Close()
}

// A connection that is closed for good is the end of all messages.
func TestWindowWhenTheConnectionIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		stream(t, s, func(int, *nats.Msg) string { return "" })
		o := newSender(t, s)
		w := outlet.NewWindow(o.Outlet, 10)
		r := add(t, w, "x", time.Hour)
		o.link.Close()
		_, _, err := r.Wait(context.Background())
		if !errors.Is(err, outlet.ErrUnknown) || !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("got %v", err)
		}
		late := &outlet.Future{Message: *message("y"), Deadline: time.Now().Add(time.Hour)}
		if err := w.Add(t.Context(), late); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("got %v", err)
		}
		w.StartCounting()
		w.Close()
	})
}

// Close unblocks who waits for room, and counts what it ends.
func TestWindowCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		stream(t, s, func(n int, _ *nats.Msg) string {
			if n == 1 {
				return refusal(10077, "full")
			}
			return ""
		})
		o := newSender(t, s)
		w := outlet.NewWindow(o.Outlet, 2)
		w.StartCounting()
		if _, _, err := add(t, w, "", time.Hour).Wait(t.Context()); err == nil {
			t.Error("it was stored")
		}
		one, other := add(t, w, "", time.Hour), add(t, w, "x", time.Hour)
		waiting := make(chan error, 1)
		go func() {
			waiting <- w.Add(t.Context(), &outlet.Future{Message: *message(""), Deadline: time.Now().Add(time.Hour)})
		}()
		synctest.Wait()
		stop, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.Flush(stop); !errors.Is(err, context.Canceled) {
			t.Errorf("Flush returned %v", err)
		}
		if err := o.link.Shut(stop); err == nil {
			t.Error("the gate is shut while messages are outstanding")
		}
		if n := w.Close(); n != 2 {
			t.Errorf("%d messages are unsent, want the two that were not refused", n)
		}
		for _, r := range []*outlet.Future{one, other} {
			if _, _, err := r.Wait(context.Background()); !errors.Is(err, outlet.ErrUnknown) || !errors.Is(err, outlet.ErrEnded) {
				t.Errorf("got %v", err)
			}
		}
		if err := <-waiting; !errors.Is(err, outlet.ErrEnded) {
			t.Errorf("Add returned %v", err)
		}
		if err := o.link.Shut(t.Context()); err != nil {
			t.Errorf("somebody is left inside the gate: %v", err)
		}
		if err := w.Add(t.Context(), &outlet.Future{Message: *message("")}); !errors.Is(err, link.ErrShut) {
			t.Errorf("Add returned %v", err)
		}
	})
}

// The connection breaks while many publish: each message has one outcome, and what
// comes later than a reconnect is not taken for lost with what came before.
func TestWindowUnderReconnects(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	stream(t, s, func(int, *nats.Msg) string { return ackText })
	o := newSender(t, s)
	w := outlet.NewWindow(o.Outlet, 64)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 500 {
				r := add(t, w, fmt.Sprint(i, "-", n), time.Minute)
				if n%100 == 50 {
					if err := o.link.Conn().ForceReconnect(); err != nil {
						t.Error(err)
					}
				}
				if n%7 == 0 {
					if _, _, err := r.Wait(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := w.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if n := o.counters.Published.Load(); n != 2000 {
		t.Errorf("%d were stored", n)
	}
	w.StartCounting()
	if n := w.Close(); n != 0 || w.Pending() != 0 {
		t.Errorf("%d are unsent, %d pending", n, w.Pending())
	}
}

// A message has a span from Add to its outcome, as one of Store has.
func TestWindowIsTraced(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	stream(t, s, func(n int, m *nats.Msg) string {
		if m.Header.Get("traceparent") == "" {
			t.Error("there is no trace")
		}
		if n == 1 {
			return ackText
		}
		return refusal(10077, "full")
	})
	rec := oteltest.New()
	tel, err := telemetry.New(telemetry.Config{TracerProvider: rec.TracerProvider(), MeterProvider: rec.MeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	l := s.Link(t)
	w := outlet.NewWindow(outlet.New(l, tel, new(telemetry.Bus)), 4)
	for range 2 {
		add(t, w, "", time.Minute)
	}
	if err := l.Shut(t.Context()); err != nil { // which waits for the spans, too
		t.Error(err)
	}
	w.Close()
	spans := rec.Spans()
	if len(spans) != 2 || spans[0].Name != spans[1].Name || spans[0].Status == spans[1].Status {
		t.Errorf("got %+v", spans)
	}
}
