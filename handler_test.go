package bus_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// trail notes what happens, in order.
type trail struct {
	mu    sync.Mutex
	steps []string
}

func (l *trail) add(step string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps = append(l.steps, step)
}

func (l *trail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.steps, " ")
}

// noting is a middleware that notes when it is entered and left.
func (l *trail) noting(name string) bus.Middleware {
	return func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error {
			l.add("+" + name)
			defer l.add("-" + name)
			return next(ctx, m)
		}
	}
}

// The first is the outermost, those of the bus are outside those of the
// subscription, and decoding is inside all of them.
func TestMiddlewareOrder(t *testing.T) {
	t.Parallel()
	const want = "+bus1 +bus2 +bus3 +own1 +own2 +own3 handler -own3 -own2 -own1 -bus3 -bus2 -bus1"
	for _, kind := range []string{"Subscribe", "Respond", "Consume", "Mux"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var l trail
			b := bustest.New(t, bus.WithMiddleware(l.noting("bus1"), l.noting("bus2")), bus.WithMiddleware(l.noting("bus3")))
			own := []bus.HandlerOption{bus.Use(l.noting("own1"), l.noting("own2")), bus.Use(l.noting("own3"))}
			h := func(context.Context, *bus.Msg[int]) error {
				l.add("handler")
				return nil
			}
			switch kind {
			case "Subscribe":
				sub, err := bus.Subscribe(b, "a", h, own[0], own[1])
				must(t, err)
				publishRange(t, b, "a", 0, 1)
				must(t, sub.Drain(t.Context()))
			case "Mux":
				var m bus.Mux
				bus.Handle(&m, "a", h)
				sub, err := b.Subscribe("a", &m, own[0], own[1])
				must(t, err)
				publishRange(t, b, "a", 0, 1)
				must(t, sub.Drain(t.Context()))
			case "Respond":
				_, err := bus.Respond(b, "a", func(ctx context.Context, m *bus.Msg[int]) (int, error) { return 0, h(ctx, m) }, own[0], own[1])
				must(t, err)
				_, err = bus.Request[int](t.Context(), b, "a", 1)
				must(t, err)
				must(t, b.Close())
			case "Consume":
				st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"a"}})
				must(t, err)
				_, err = bus.PublishTo(t.Context(), st, "a", 1)
				must(t, err)
				_, err = bus.Consume(t.Context(), st, "c", "a", h, own[0], own[1])
				must(t, err)
				eventually(t, "the message is handled", func() bool { return b.Stats().Handled == 1 })
			}
			if got := l.String(); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// A middleware sees the message as it is on the wire, also one that cannot be
// decoded, and may change it, answer for it, or keep it from the handler.
func TestMiddlewareSeesTheWire(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	var payloads []string
	mw := func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error {
			payloads = append(payloads, string(m.Data))
			switch m.Header.Get("X-Do") {
			case "change":
				m.Data = []byte("42")
			case "drop":
				return nil
			case "refuse":
				return errors.New("refused")
			}
			return next(ctx, m)
		}
	}
	b := bustest.New(t, record, bus.WithMiddleware(mw))
	h, got := collect[int](10)
	sub, err := bus.Subscribe(b, "a", h)
	must(t, err)
	for _, do := range []string{"pass", "change", "drop", "refuse"} {
		must(t, bus.Publish(t.Context(), b, "a", 1, bus.WithHeader("X-Do", do)))
	}
	must(t, b.Conn().Publish("a", []byte("nonsense")))
	must(t, b.Flush(t.Context()))
	must(t, sub.Drain(t.Context()))
	if a, b := receive(t, got), receive(t, got); a != 1 || b != 42 {
		t.Errorf("got %d and %d, want 1 and 42", a, b)
	}
	nothing(t, got)
	hasText(t, nextEvent(t, events, event.HandlerFailed).Err, "refused")
	asError[*bus.CodecError](t, nextEvent(t, events, event.HandlerFailed).Err)
	if want := []string{"1", "1", "1", "1", "nonsense"}; !slices.Equal(payloads, want) {
		t.Errorf("it saw %q, want %q", payloads, want)
	}
	if s := b.Stats(); s.Handled != 3 || s.HandlerErrors != 2 {
		t.Errorf("the statistics are %+v", s)
	}
}

// The answer finds its way also where a middleware makes the message, and the context,
// anew; a context that has nothing to do with the request's is an error.
func TestMiddlewareMakesARequestAnew(t *testing.T) {
	t.Parallel()
	type key struct{}
	record, events := recordEvents()
	mw := func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error {
			if string(m.Data) == "13" {
				return next(context.Background(), m)
			}
			ctx, cancel := context.WithTimeout(context.WithValue(ctx, key{}, 1), time.Minute)
			defer cancel()
			return next(ctx, &bus.RawMsg{Data: []byte("7"), Subject: m.Subject})
		}
	}
	b := bustest.New(t, record)
	double := func(_ context.Context, m *bus.Msg[int]) (int, error) { return 2 * m.Data, nil }
	must(t, second(bus.Respond[int, int](b, "q", double, bus.Use(mw))))
	if n, err := bus.Request[int](t.Context(), b, "q", 1); n != 14 || err != nil {
		t.Errorf("the answer is %d, %v", n, err)
	}
	_, err := bus.Request[int](t.Context(), b, "q", 13)
	asError[*bus.RemoteError](t, err, "internal error")
	hasText(t, nextEvent(t, events, event.HandlerFailed).Err, "derive")
}

// Errors and panics pass through a middleware, which may deal with either; what
// it returns is the outcome.
func TestMiddlewareDealsWithFailures(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	swallow := func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error {
			_ = next(ctx, m)
			return nil
		}
	}
	wrap := func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error {
			if err := next(ctx, m); err != nil {
				return errors.Join(errors.New("wrapped"), err)
			}
			return nil
		}
	}
	catch := func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) (err error) {
			defer func() {
				if v := recover(); v != nil {
					err = boom
				}
			}()
			return next(ctx, m)
		}
	}
	throw := func(bus.RawHandler) bus.RawHandler {
		return func(context.Context, *bus.RawMsg) error { panic("in the middleware") }
	}
	fails := func(context.Context, *bus.Msg[int]) error { return boom }
	panics := func(context.Context, *bus.Msg[int]) error { panic(boom) }
	for _, tc := range []struct {
		name  string
		h     bus.Handler[int]
		mw    []bus.Middleware
		check func(*testing.T, error) // nil: handled
	}{
		{"an error is swallowed", fails, []bus.Middleware{swallow}, nil},
		{"an error is wrapped", fails, []bus.Middleware{wrap}, func(t *testing.T, err error) { isError(t, err, boom, "wrapped") }},
		{"a panic is not an error to it", panics, []bus.Middleware{swallow}, func(t *testing.T, err error) { asError[*bus.PanicError](t, err, "boom") }},
		{"a panic is caught", panics, []bus.Middleware{wrap, catch}, func(t *testing.T, err error) { isError(t, err, boom, "wrapped") }},
		{"a panic of its own", ignore[int], []bus.Middleware{throw}, func(t *testing.T, err error) { asError[*bus.PanicError](t, err, "in the middleware") }},
	} {
		for _, where := range []string{"bus", "subscription"} {
			t.Run(tc.name+", of the "+where, func(t *testing.T) {
				t.Parallel()
				record, events := recordEvents()
				opts, own := []bus.Option{record}, []bus.SubscribeOption{}
				if where == "bus" {
					opts = append(opts, bus.WithMiddleware(tc.mw...))
				} else {
					own = append(own, bus.Use(tc.mw...))
				}
				b := bustest.New(t, opts...)
				sub, err := bus.Subscribe(b, "a", tc.h, own...)
				must(t, err)
				publishRange(t, b, "a", 0, 1)
				must(t, sub.Drain(t.Context()))
				if tc.check == nil {
					nothing(t, events)
					return
				}
				tc.check(t, nextEvent(t, events, event.HandlerFailed).Err)
			})
		}
	}
}

type userKey struct{}

// What a middleware adds to the context is there in the handler, and what the
// library puts there stays.
func TestMiddlewareContext(t *testing.T) {
	t.Parallel()
	mw := func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error {
			return next(context.WithValue(ctx, userKey{}, m.Header.Get("X-User")), m)
		}
	}
	b := bustest.New(t, bus.WithMiddleware(mw))
	got := make(chan context.Context, 1)
	_, err := bus.Subscribe(b, "a", func(ctx context.Context, m *bus.Msg[int]) error {
		got <- ctx
		return nil
	}, bus.HandlerTimeout(time.Hour))
	must(t, err)
	must(t, bus.Publish(t.Context(), b, "a", 1, bus.WithHeader("X-User", "ann")))
	ctx := receive(t, got)
	if ctx.Value(userKey{}) != "ann" || bus.Stopping(ctx) == nil {
		t.Errorf("the user is %v, Stopping %v", ctx.Value(userKey{}), bus.Stopping(ctx))
	}
	if at, ok := ctx.Deadline(); !ok || time.Until(at) > time.Hour {
		t.Errorf("the deadline is %v, %t", at, ok)
	}
}

// A middleware that returns no handler is found before the first message.
func TestMiddlewareThatReturnsNothing(t *testing.T) {
	t.Parallel()
	good := func(next bus.RawHandler) bus.RawHandler { return next }
	none := func(bus.RawHandler) bus.RawHandler { return nil }
	for name, where := range map[string]struct {
		bus []bus.Option
		use bus.HandlerOption
	}{
		"Use":            {nil, bus.Use(good, none)},
		"WithMiddleware": {[]bus.Option{bus.WithMiddleware(good, none)}, bus.Use(good)},
	} {
		b := bustest.New(t, append(where.bus, bus.WithLogger(silent()))...)
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		for call, err := range map[string]error{
			"Subscribe": second(bus.Subscribe(b, "a", ignore[int], where.use)),
			"Respond":   second(bus.Respond(b, "a", double, where.use)),
			"Consume":   second(bus.Consume(t.Context(), st, "d", "S", ignore[int], where.use)),
		} {
			if err == nil {
				t.Errorf("%s took it from %s", call, name)
				continue
			}
			if e := asError[*bus.OptionError](t, err, "middleware 2", "returned no handler"); e.Option != name {
				t.Errorf("%s: got %+v", call, e)
			}
		}
	}
}
