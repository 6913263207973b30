package bus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// nilError is an error that panics where it is a nil pointer.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// An error whose methods panic is a *PanicError, wherever it comes from.
func TestErrorThatPanics(t *testing.T) {
	t.Parallel()
	var none *nilError
	for name, fail := range map[string]func() error{
		"returned":           func() error { return none },
		"wrapped":            func() error { return errors.Join(errors.New("first"), none) },
		"that is permanent":  func() error { return bus.Permanent(none) },
		"to be tried later":  func() error { return bus.RetryAfter(time.Second, none) },
		"thrown":             func() error { panic(none) },
		"that asks in vain":  func() error { return (*moody)(nil) },
		"that unwraps badly": func() error { return &moody{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			option, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				consume(t, st, "d", "S", func(context.Context, *bus.Msg[int]) error { return fail() }, bus.Retry(bus.RetryPolicy{MaxAttempts: 1}))
				must(t, second(bus.PublishTo(t.Context(), st, "S", 1)))
				pass(time.Minute)
				asError[*bus.PanicError](t, nextEvent(t, events, event.DeadLetter).Err)

				must(t, second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error { return fail() })))
				must(t, bus.Publish(t.Context(), b, "a", 1))
				pass(time.Second)
				asError[*bus.PanicError](t, nextEvent(t, events, event.HandlerFailed).Err)

				e := bus.Endpoint[int, int]("q")
				must(t, second(bus.Respond(b, e, func(context.Context, *bus.Msg[int]) (int, error) { return 0, fail() })))
				asError[*bus.RemoteError](t, second(bus.Request[int](t.Context(), b, e, 1)), "internal error")
				must(t, b.Close())
			}, option)
		})
	}
}

// moody is an error that panics when it is unwrapped.
type moody struct{}

func (*moody) Error() string { return "moody" }
func (*moody) Unwrap() error { panic("not in the mood") }

// A RetryPolicy.Permanent that panics does not say that the error is permanent.
func TestPermanentThatPanics(t *testing.T) {
	t.Parallel()
	option, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		consume(t, st, "d", "S", func(context.Context, *bus.Msg[int]) error { return errors.New("down") },
			bus.Retry(bus.RetryPolicy{MaxAttempts: 2, Permanent: func(error) bool { panic("no idea") }}))
		must(t, second(bus.PublishTo(t.Context(), st, "S", 1)))
		pass(time.Minute)
		for _, kind := range []event.Kind{event.Retry, event.DeadLetter} {
			asError[*bus.PanicError](t, nextEvent(t, events, kind).Err, "down", "RetryPolicy.Permanent", "no idea")
		}
		must(t, b.Close())
	}, option)
}

// What is called within a call of the user's fails that call.
func TestFunctionsThatPanic(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		asError[*bus.PanicError](t, second(b.Stream(t.Context(), bus.StreamConfig{Name: "R", Raw: func(*jetstream.StreamConfig) { panic("raw") }})), "StreamConfig.Raw panicked: raw")
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		consume(t, st, "d", "S", func(context.Context, *bus.Msg[int]) error { return bus.Permanent(errors.New("bad")) })
		must(t, second(bus.PublishTo(t.Context(), st, "S", 1)))
		pass(time.Minute)
		_, err := st.DeadCount(t.Context(), bus.DeadFilter{Match: func(*bus.DeadLetter) bool { panic("match") }})
		asError[*bus.PanicError](t, err, "DeadFilter.Match panicked")
	})
}

// A message whose Validate panics when its key is asked for becomes a dead letter.
func TestValidateThatPanicsForTheKey(t *testing.T) {
	t.Parallel()
	option, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		consume(t, st, "d", "S", ignore[nervous], bus.KeyBy(func(m *bus.Msg[nervous]) string { return m.Data.Key }))
		must(t, second(bus.PublishTo(t.Context(), st, "S", map[string]string{"Key": "a"})))
		pass(time.Minute)
		asError[*bus.PanicError](t, nextEvent(t, events, event.DeadLetter).Err, "nervous")
	}, option)
}

type nervous struct{ Key string }

func (nervous) Validate() error { panic("nervous") }
