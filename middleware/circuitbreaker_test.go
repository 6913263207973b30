package middleware_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/middleware"
)

// quiet is for tests whose handlers fail on purpose.
var quiet = bus.WithSlog(slog.New(slog.DiscardHandler))

func TestCircuitBreakerRefusesBadArguments(t *testing.T) {
	t.Parallel()
	for arg, s := range map[string]middleware.BreakerSettings{
		"Failures": {Failures: -1},
		"OpenFor":  {OpenFor: time.Millisecond - 1},
		"Probes":   {Probes: -1},
	} {
		refused(t, "CircuitBreaker", arg)(middleware.CircuitBreaker(s))
	}
	refused(t, "CircuitBreaker", "OpenFor")(middleware.CircuitBreaker(middleware.BreakerSettings{OpenFor: -time.Second}))
}

// dependency is a handler whose outcome the test sets.
type dependency struct {
	err   error
	panic any
	calls int
}

func (d *dependency) handle(context.Context, *bus.RawMsg) error {
	d.calls++
	if d.panic != nil {
		panic(d.panic)
	}
	return d.err
}

// call reports whether the breaker let a call through.
func (d *dependency) call(t *testing.T, h bus.RawHandler) bool {
	t.Helper()
	before := d.calls
	if d.panic != nil {
		if v := panicValue(h, &bus.RawMsg{}); v != nil && v != d.panic {
			t.Errorf("recovered %v", v)
		}
		return d.calls > before
	}
	err := h(t.Context(), &bus.RawMsg{})
	var open *middleware.OpenError
	switch let := d.calls > before; {
	case let && !errors.Is(err, d.err):
		t.Errorf("got %v, want the handler's %v", err, d.err)
	case !let && !errors.As(err, &open):
		t.Errorf("got %v, want an *OpenError", err)
	}
	return d.calls > before
}

func TestCircuitBreakerCountsFailuresInARow(t *testing.T) {
	t.Parallel()
	invalid := &bus.ValidationError{Subject: "c.x", Err: errors.New("negative")}
	malformed := &bus.CodecError{Subject: "c.x", Op: "decode", Err: errors.New("eof")}
	tests := map[string]struct {
		outcomes []error
		panics   bool
		settings middleware.BreakerSettings
		open     bool
	}{
		"three failures":           {outcomes: []error{errHandler, errHandler, errHandler}, open: true},
		"two failures":             {outcomes: []error{errHandler, errHandler}},
		"a success between":        {outcomes: []error{errHandler, errHandler, nil, errHandler, errHandler}},
		"panics":                   {outcomes: make([]error, 3), panics: true, open: true},
		"timeouts":                 {outcomes: slices.Repeat([]error{context.DeadlineExceeded}, 3), open: true},
		"asked retries":            {outcomes: slices.Repeat([]error{bus.RetryAfter(time.Second, errHandler)}, 3), open: true},
		"answers":                  {outcomes: slices.Repeat([]error{bus.Public("404", "no such order")}, 9)},
		"wrapped answers":          {outcomes: slices.Repeat([]error{errors.Join(errHandler, bus.Public("404", "no such order"))}, 9)},
		"an answer between":        {outcomes: []error{errHandler, errHandler, bus.Public("404", ""), errHandler, errHandler}},
		"invalid messages":         {outcomes: slices.Repeat([]error{invalid}, 9)},
		"malformed messages":       {outcomes: slices.Repeat([]error{malformed}, 9)},
		"cancelled calls":          {outcomes: slices.Repeat([]error{context.Canceled}, 9)},
		"refused by an inner one":  {outcomes: slices.Repeat([]error{bus.RetryAfter(1, &middleware.OpenError{RetryIn: 1})}, 9)},
		"postponed messages":       {outcomes: slices.Repeat([]error{bus.Postpone(1, errHandler)}, 9)},
		"malformed does not reset": {outcomes: []error{errHandler, errHandler, malformed, errHandler}, open: true},
		"own rule, no failure": {outcomes: slices.Repeat([]error{errHandler}, 9),
			settings: middleware.BreakerSettings{IsFailure: func(err error) bool { return !errors.Is(err, errHandler) }}},
		"own rule, a failure": {outcomes: slices.Repeat([]error{bus.Public("503", "")}, 3), open: true,
			settings: middleware.BreakerSettings{IsFailure: func(error) bool { return true }}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.settings.Failures = 3
			d := &dependency{}
			h := must(t)(middleware.CircuitBreaker(test.settings))(d.handle)
			for i, err := range test.outcomes {
				d.err = err
				if test.panics {
					d.panic = "boom"
				}
				if !d.call(t, h) {
					t.Fatalf("call %d was refused", i+1)
				}
			}
			d.err, d.panic = nil, nil
			if open := !d.call(t, h); open != test.open {
				t.Errorf("open: %t, want %t", open, test.open)
			}
		})
	}
}

func TestCircuitBreakerDefaults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &dependency{err: errHandler}
		h := must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{}))(d.handle)
		for d.call(t, h) {
			if d.calls > 5 {
				t.Fatal("still closed after 6 failures")
			}
		}
		if d.calls != 5 {
			t.Errorf("open after %d failures, want 5", d.calls)
		}
		time.Sleep(10*time.Second - 1)
		if d.call(t, h) {
			t.Error("a call went through before 10 s")
		}
		time.Sleep(time.Nanosecond)
		d.err = nil
		if !d.call(t, h) || !d.call(t, h) {
			t.Error("not closed by one success after 10 s")
		}
	})
}

func TestCircuitBreakerTellsWhenToRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		probing := make(chan error)
		inside := make(chan struct{})
		h := must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 1, OpenFor: time.Minute}))(
			func(context.Context, *bus.RawMsg) error {
				inside <- struct{}{}
				return <-probing
			})
		attempt := func(outcome error) {
			go func() { _ = h(t.Context(), &bus.RawMsg{}) }()
			<-inside
			probing <- outcome
			synctest.Wait()
		}
		retryIn := func() time.Duration {
			t.Helper()
			var open *middleware.OpenError
			if err := h(t.Context(), &bus.RawMsg{}); !errors.As(err, &open) {
				t.Fatalf("got %v, want an *OpenError", err)
			}
			return open.RetryIn
		}
		attempt(errHandler)
		if got := retryIn(); got != time.Minute {
			t.Errorf("retry in %v, want 1m", got)
		}
		time.Sleep(45 * time.Second)
		if got := retryIn(); got != 15*time.Second {
			t.Errorf("retry in %v, want 15s", got)
		}
		time.Sleep(15 * time.Second)
		go func() { _ = h(t.Context(), &bus.RawMsg{}) }()
		<-inside // the probe runs
		if got := retryIn(); got != time.Second {
			t.Errorf("retry in %v while the outcome of the probe is open, want 1s", got)
		}
		probing <- errHandler
		synctest.Wait()
		if got := retryIn(); got != time.Minute {
			t.Errorf("retry in %v after the probe failed, want 1m", got)
		}
	})
}

// Whatever happens to a probe, the breaker must not wait for it for ever.
func TestCircuitBreakerProbes(t *testing.T) {
	t.Parallel()
	malformed := &bus.CodecError{Err: errors.New("eof")}
	tests := map[string]struct {
		outcomes []error
		panic    any
		then     bool // whether the next call is let through
	}{
		"all succeed":              {outcomes: []error{nil, nil}, then: true},
		"the last fails":           {outcomes: []error{nil, errHandler}},
		"one panics":               {outcomes: []error{nil}, panic: "boom"},
		"malformed ones are spare": {outcomes: []error{malformed, malformed, malformed, nil, malformed, nil}, then: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := &dependency{err: errHandler}
				h := must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 1, Probes: 2}))(d.handle)
				d.call(t, h)
				time.Sleep(10 * time.Second)
				for i, err := range test.outcomes {
					d.err, d.panic = err, test.panic
					if !d.call(t, h) {
						t.Fatalf("probe %d was refused", i+1)
					}
				}
				d.err, d.panic = nil, nil
				if let := d.call(t, h); let != test.then {
					t.Errorf("let through: %t, want %t", let, test.then)
				}
			})
		})
	}
}

// A handler that ends its goroutine neither returns nor panics.
func TestCircuitBreakerCountsGoexit(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	leave := true
	h := must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 1}))(func(context.Context, *bus.RawMsg) error {
		if leave {
			runtime.Goexit()
		}
		return nil
	})
	go func() {
		defer close(done)
		_ = h(t.Context(), &bus.RawMsg{})
	}()
	<-done
	leave = false
	var open *middleware.OpenError
	if err := h(t.Context(), &bus.RawMsg{}); !errors.As(err, &open) {
		t.Errorf("got %v, want an *OpenError", err)
	}
}

// outage is a dependency that is down for a while from the first call on.
type outage struct {
	mu    sync.Mutex
	began time.Time
	until time.Duration
	calls []time.Duration
}

func (o *outage) call() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.began.IsZero() {
		o.began = time.Now()
	}
	at := time.Since(o.began)
	o.calls = append(o.calls, at)
	if at < o.until {
		return errHandler
	}
	return nil
}

func TestCircuitBreakerWithConsume(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := stream(t, b)
		store(t, st, 6)
		db := &outage{until: 25 * time.Second}
		_, err := bus.Consume(t.Context(), st, "c", "s.>", func(context.Context, *bus.Msg[int]) error { return db.call() },
			bus.Use(must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 3}))))
		check(t, err)
		pass(time.Hour)
		ten, twenty, thirty := 10*time.Second, 20*time.Second, 30*time.Second
		want := []time.Duration{0, 0, 0, ten, twenty, thirty, thirty, thirty, thirty, thirty, thirty}
		if !slices.Equal(db.calls, want) {
			t.Errorf("called at %v, want %v: two probes, then each message once", db.calls, want)
		}
		con, err := b.JetStream().Consumer(t.Context(), "S", "c")
		check(t, err)
		if info := con.CachedInfo(); info.NumAckPending != 0 || info.NumPending != 0 {
			t.Errorf("%d unacknowledged, %d to come, want none", info.NumAckPending, info.NumPending)
		}
	}, quiet)
}

// However long an outage is, no message is given up that its handler did not get.
func TestCircuitBreakerGivesUpNothingUntried(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := stream(t, b)
		store(t, st, 100)
		db := &outage{until: 10 * time.Minute}
		calls := map[uint64]int{}
		_, err := bus.Consume(t.Context(), st, "c", "s.>", func(_ context.Context, m *bus.Msg[int]) error {
			calls[m.Sequence]++
			return db.call()
		}, bus.Use(must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{}))))
		check(t, err)
		pass(time.Hour)
		dead, err := st.DeadCount(t.Context(), bus.DeadFilter{})
		check(t, err)
		if dead != 0 || len(calls) != 100 {
			t.Errorf("%d of 100 were handled, %d are dead letters", len(calls), dead)
		}
	}, quiet)
}

func TestCircuitBreakerIsSharedByItsHandlers(t *testing.T) {
	t.Parallel()
	breaker := must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 1}))
	failing, healthy := &dependency{err: errHandler}, &dependency{}
	one, other := breaker(failing.handle), breaker(healthy.handle)
	failing.call(t, one)
	if healthy.call(t, other) {
		t.Error("the other handler was called")
	}
	separate := must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 1}))(healthy.handle)
	if !healthy.call(t, separate) {
		t.Error("another breaker is open too")
	}
}

func TestCircuitBreakerWithRespond(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, quiet)
	_, err := bus.Respond(b, "r.x", func(context.Context, *bus.Msg[int]) (int, error) { return 0, errHandler },
		bus.Use(must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 2}))))
	check(t, err)
	for _, code := range []string{"500", "500", "503"} {
		_, err := bus.Request[int](t.Context(), b, "r.x", 1)
		var remote *bus.RemoteError
		if !errors.As(err, &remote) || remote.Code != code {
			t.Errorf("got %v, want a *RemoteError with code %s", err, code)
		}
	}
}

func TestCircuitBreakerConcurrently(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers, seconds, probes = 8, 10, 2
		var calls atomic.Int64
		var healthy atomic.Bool
		h := must(t)(middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 1, OpenFor: time.Second, Probes: probes}))(
			func(context.Context, *bus.RawMsg) error {
				n := calls.Add(1)
				time.Sleep(10 * time.Millisecond)
				switch {
				case healthy.Load():
					return nil
				case n%2 == 0:
					panic("boom")
				}
				return errHandler
			})
		// all calls at the rate of ten a second each, for some seconds
		all := func() (calledBack int64) {
			before := calls.Load()
			var group sync.WaitGroup
			for range callers {
				group.Go(func() {
					for range 10 * seconds {
						panicValue(h, &bus.RawMsg{})
						time.Sleep(100 * time.Millisecond)
					}
				})
			}
			group.Wait()
			return calls.Load() - before
		}
		if n := all(); n > callers+probes*(seconds+1) {
			t.Errorf("%d calls in an outage of about %d s, want %d at first and then at most %d a second", n, seconds, callers, probes)
		}
		healthy.Store(true)
		time.Sleep(time.Second)
		if n := all(); n < callers*10*(seconds-1) {
			t.Errorf("%d calls after the outage, want about %d", n, callers*10*seconds)
		}
	})
}
