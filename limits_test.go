package bus_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// A server that takes small messages only can be used with smaller ones still: half
// of a small limit is kept for headers.
func TestSmallPayloadLimit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ server, limit int }{{1024, 512}, {4096, 2048}, {8192, 4096}, {16384, 8192}, {17000, 17000 - 8192}} {
		b := bustest.New(t, bus.WithServerOptions(func(o *server.Options) { o.MaxPayload = int32(tc.server) }))
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		must(t, second(bus.Respond(b, "echo", func(_ context.Context, m *bus.Msg[[]byte]) ([]byte, error) { return m.Data, nil })))
		for size, fits := range map[int]bool{1: true, tc.limit: true, tc.limit + 1: false} {
			data := bytes.Repeat([]byte("x"), size)
			for name, err := range map[string]error{
				"Publish":   bus.Publish(t.Context(), b, "a", data),
				"PublishTo": second(bus.PublishTo(t.Context(), st, "S", data)),
				"Request":   second(bus.Request[[]byte](t.Context(), b, "echo", data)),
			} {
				if fits {
					must(t, err)
				} else if e := asError[*bus.PayloadError](t, err); e.Limit != tc.limit || e.Size != size {
					t.Errorf("server %d, %s of %d: %+v", tc.server, name, size, e)
				}
			}
		}
	}
}

// The largest buffer that can be asked for can be had.
func TestLargestAsyncBuffer(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithAsyncBuffer(bus.AsyncBuffer{Size: 1 << 20}))
	h, got := collect[int](1)
	must(t, second(bus.Subscribe(b, "a", h)))
	must(t, bus.PublishAsync(t.Context(), b, "a", 7))
	if v := receive(t, got); v != 7 {
		t.Errorf("got %d", v)
	}
}

// A public error reaches the requester as an error, however it was made, also one
// who takes plain bytes.
func TestPublicErrorsOfAnyText(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithLogger(silent()))
	for _, tc := range []struct {
		err           error
		code, message string
	}{
		{bus.Public(" ", ""), "500", ""},
		{bus.Public("\n", " "), "500", ""},
		{bus.Public("\t", "text"), "500", "text"},
		{bus.Public("", ""), "500", ""},
		{bus.Public("", "text"), "500", "text"},
		{bus.Public("404\r\nX-Injected: yes", "a\nb"), "404  X-Injected: yes", "a b"},
		{bus.Public("\u00a0", ""), "500", ""},
	} {
		sub, err := bus.Respond(b, "r", func(context.Context, *bus.Msg[string]) ([]byte, error) { return nil, tc.err })
		must(t, err)
		v, err := bus.Request[[]byte](t.Context(), b, "r", "x")
		if e := asError[*bus.RemoteError](t, err); e.Code != tc.code || e.Message != tc.message || v != nil {
			t.Errorf("%q: got %q and %+v", tc.err, v, e)
		}
		must(t, sub.Unsubscribe())
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
