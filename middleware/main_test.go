package middleware_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/internal/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

var errHandler = errors.New("the database is down")

// must returns the middleware of a constructor whose arguments are right.
func must(t testing.TB) func(bus.Middleware, error) bus.Middleware {
	t.Helper()
	return func(mw bus.Middleware, err error) bus.Middleware {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return mw
	}
}

// refused checks that a constructor returned a *bus.OptionError about arg.
func refused(t *testing.T, fn, arg string) func(bus.Middleware, error) {
	t.Helper()
	return func(mw bus.Middleware, err error) {
		t.Helper()
		var bad *bus.OptionError
		if !errors.As(err, &bad) || bad.Option != "middleware."+fn || !strings.HasPrefix(bad.Reason, arg+" ") {
			t.Errorf("got %v, want an *OptionError of middleware.%s about %s", err, fn, arg)
		}
		if mw != nil {
			t.Error("there is a middleware beside the error")
		}
	}
}

// panicValue calls h and returns what it panicked with.
func panicValue(h bus.RawHandler, m *bus.RawMsg) (v any) {
	defer func() { v = recover() }()
	_ = h(context.Background(), m)
	return nil
}

// stream declares a stream for everything below "s".
func stream(t *testing.T, b *bus.Bus) *bus.Stream {
	t.Helper()
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func store(t *testing.T, st *bus.Stream, n int) {
	t.Helper()
	for i := range n {
		if _, err := bus.PublishTo(t.Context(), st, "s.x", i); err != nil {
			t.Fatal(err)
		}
	}
}

// publish sends the numbers from 0 to n-1 and waits until the server has them.
func publish(t *testing.T, b *bus.Bus, n int) {
	t.Helper()
	for i := range n {
		if err := bus.Publish(t.Context(), b, "c.x", i); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// pass lets time pass in a bubble, and then everything that it set going.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
