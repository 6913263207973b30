package bus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/event"
)

// shout is text that travels in capitals, by a codec of the program's own.
type shoutCodec struct{}

func (shoutCodec) ContentType() string { return "text/x-shout" }

func (shoutCodec) Marshal(v any) ([]byte, error) {
	s, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("cannot shout a %T", v)
	}
	return []byte(strings.ToUpper(s)), nil
}

func (shoutCodec) Unmarshal(data []byte, v any) error {
	s, ok := v.(*string)
	if !ok {
		return fmt.Errorf("cannot shout into a %T", v)
	}
	*s = strings.ToLower(string(data))
	return nil
}

// Which codec a message is written and read with: the call's, the subject's
// rule, the type's, the bus's.
func TestCodecChoice(t *testing.T) {
	t.Parallel()
	cbor := bus.WithCodec(codec.CBOR)
	shout := bus.WithCodecFor("loud.>", shoutCodec{})
	for _, tc := range []struct {
		name        string
		opts        []bus.Option
		publish     func(context.Context, *bus.Bus) error
		contentType string
		payload     string
	}{
		{"JSON by default", nil, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, "a.b", "x") }, "", `"x"`},
		{"bytes", nil, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, "a.b", []byte("x")) }, "", "x"},
		{"protobuf", nil, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, "a.b", durationpb.New(1)) }, "", "\x10\x01"},
		{"the call's", nil, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, "a.b", "x", bus.As(codec.Text))
		}, "text/plain", "x"},
		{"the call's, which is the type's", nil, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, "a.b", "x", bus.As(codec.JSON))
		}, "", `"x"`},
		{"the call's for bytes", nil, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, "a.b", []byte("x"), bus.As(codec.JSON))
		}, "application/json", `"eA=="`},
		{"the bus's", []bus.Option{cbor}, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, "a.b", "x") }, "application/cbor", "\x61x"},
		{"the bus's, for bytes", []bus.Option{cbor}, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, "a.b", []byte("x")) }, "", "x"},
		{"the bus's, for raw JSON", []bus.Option{cbor}, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, "a.b", json.RawMessage("1"))
		}, "", "1"},
		{"JSON where the bus's is another", []bus.Option{cbor}, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, "a.b", "x", bus.As(codec.JSON))
		}, "application/json", `"x"`},
		{"the subject's rule", []bus.Option{shout}, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, "loud.b", "x") }, "text/x-shout", "X"},
		{"another subject's", []bus.Option{shout}, func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, "a.b", "x") }, "", `"x"`},
		{"the first rule that matches", []bus.Option{bus.WithCodecFor("loud.quiet", codec.Text), shout}, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, "loud.quiet", "x")
		}, "text/plain", "x"},
		{"the call's before the rule", []bus.Option{shout}, func(ctx context.Context, b *bus.Bus) error {
			return bus.Publish(ctx, b, "loud.b", "x", bus.As(codec.Text))
		}, "text/plain", "x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, tc.opts...)
			raw := make(chan *nats.Msg, 1)
			_, err := b.Conn().Subscribe(">", func(m *nats.Msg) { raw <- m })
			must(t, err)
			must(t, tc.publish(t.Context(), b))
			m := receive(t, raw)
			if m.Header.Get("Content-Type") != tc.contentType || string(m.Data) != tc.payload {
				t.Errorf("got %q, %v; want %q, %q", m.Data, m.Header, tc.payload, tc.contentType)
			}
			if tc.contentType == "" && m.Header != nil {
				t.Errorf("there is a header: %v", m.Header)
			}
		})
	}
}

// Whatever codec a message was sent with, whoever knows it reads it.
func TestCodecRoundTrip(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithCodecFor("loud.*", shoutCodec{}))
	h, got := collect[order](10)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	text, texts := collect[string](10)
	_, err = bus.Subscribe(b, "loud.*", text)
	must(t, err)
	want := order{ID: "x", Total: 1.5, Tags: map[string]int{"a": 1}}
	for _, cd := range []codec.Codec{codec.JSON, codec.CBOR} {
		must(t, bus.Publish(t.Context(), b, "a", want, bus.As(cd)))
		if v := receive(t, got); !reflect.DeepEqual(v, want) {
			t.Errorf("%s: got %+v", cd.ContentType(), v)
		}
	}
	must(t, bus.Publish(t.Context(), b, "loud.a", "hello"))
	must(t, bus.Publish(t.Context(), b, "loud.a", "hello", bus.As(codec.Text)))
	must(t, b.Conn().Publish("loud.a", []byte("HELLO"))) // no header: the rule
	for range 3 {
		if v := receive(t, texts); v != "hello" {
			t.Errorf("got %q", v)
		}
	}
}

// rawMessage sends what other clients might.
func rawMessage(t *testing.T, b *bus.Bus, data []byte, header ...string) {
	t.Helper()
	m := &nats.Msg{Subject: "a", Data: data, Header: nats.Header{}}
	for i := 0; i < len(header); i += 2 {
		m.Header[header[i]] = []string{header[i+1]}
	}
	must(t, b.Conn().PublishMsg(m))
}

// Content types are read as leniently as HTTP's.
func TestContentTypesOfOthers(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, got := collect[string](1)
	_, err := bus.Subscribe(b, "a", h, bus.As(codec.CBOR))
	must(t, err)
	for _, tc := range []struct{ contentType, payload string }{
		{"", "\x61x"},
		{"application/json", `"x"`},
		{"Application/JSON", `"x"`},
		{"application/json; charset=utf-8", `"x"`},
		{" application/json ; x=\"y;z\" ", `"x"`},
		{"text/plain;charset=utf-8", "x"},
		{"application/cbor", "\x61x"},
	} {
		if tc.contentType == "" {
			rawMessage(t, b, []byte(tc.payload))
		} else {
			rawMessage(t, b, []byte(tc.payload), "content-type", tc.contentType)
		}
		if v := receive(t, got); v != "x" {
			t.Errorf("%q: got %q", tc.contentType, v)
		}
	}
}

// What cannot be read never reaches the handler: it is an event with a typed
// error that says what is wrong, and the next message is handled.
func TestUnreadablePayloads(t *testing.T) {
	t.Parallel()
	json1000 := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	bomb := make([]byte, 2<<20)
	for i := range bomb {
		bomb[i] = ' '
	}
	bomb[0], bomb[len(bomb)-1] = '"', '"'
	type testCase struct {
		name   string
		data   []byte
		header []string
		text   []string
	}
	cases := []testCase{
		{"malformed", []byte(`{`), nil, []string{"decode application/json", "malformed"}},
		{"empty", nil, nil, []string{"decode application/json"}},
		{"wrong type", []byte(`{"a":1}`), nil, []string{"decode application/json", "string"}},
		{"two values", []byte(`"a" "b"`), nil, []string{"decode"}},
		{"malformed CBOR", []byte{0xff}, []string{"Content-Type", "application/cbor"}, []string{"decode application/cbor"}},
		{"text that is none", []byte{0xff}, []string{"Content-Type", "text/plain"}, []string{"decode text/plain", "UTF-8"}},
		{"protobuf for a string", []byte{1}, []string{"Content-Type", "application/protobuf"}, []string{"decode application/protobuf", "string"}},
		{"unknown content type", []byte("x"), []string{"Content-Type", "application/x-new"}, []string{"application/x-new", "does not know", "WithCodec"}},
		{"no content type at all", []byte("x"), []string{"Content-Type", "///"}, []string{`"///"`, "is not a content type"}},
		{"unprintable content type", []byte("x"), []string{"Content-Type", "a\x1b[31m\x07"}, []string{"is not a content type"}},
		{"endless content type", []byte("x"), []string{"Content-Type", strings.Repeat("x", 4096)}, []string{"is not a content type"}},
		{"unknown encoding", []byte("x"), []string{"Content-Encoding", "br"}, []string{`"br"`, "zstd, s2, gzip"}},
		{"two encodings", []byte("x"), []string{"Content-Encoding", "gzip, zstd"}, []string{"encoding"}},
	}
	for _, encoding := range []string{codec.Zstd, codec.S2, codec.Gzip} {
		whole := compressed(t, encoding, json1000)
		header := []string{"Content-Encoding", encoding}
		cases = append(cases,
			testCase{encoding + ": nothing", nil, header, []string{encoding, "malformed"}},
			testCase{encoding + ": garbage", []byte("\x00garbage that is nothing"), header, []string{encoding, "malformed"}},
			testCase{encoding + ": not compressed", json1000, header, []string{encoding, "malformed"}},
			testCase{encoding + ": truncated", whole[:len(whole)/2], header, []string{encoding, "malformed"}},
			testCase{encoding + ": a bomb", compressed(t, encoding, bomb), header, []string{encoding, "more than 1048576 bytes", "raise"}},
			testCase{encoding + ": malformed inside", compressed(t, encoding, []byte("{")), header, []string{"decode application/json"}},
		)
	}
	record, events := recordEvents()
	b := bustest.New(t, record, bus.WithCompression(bus.Compression{MaxDecoded: 1 << 20}))
	h, got := collect[string](10)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	for _, tc := range cases {
		rawMessage(t, b, tc.data, tc.header...)
		rawMessage(t, b, []byte(`"next"`))
		e := nextEvent(t, events, event.HandlerFailed)
		c := asError[*bus.CodecError](t, e.Err, append(tc.text, `"a"`)...)
		if c.Op != "decode" || c.Subject != "a" || e.Subject != "a" || len(e.Err.Error()) > 1000 || strings.ContainsAny(e.Err.Error(), "\x1b\x07") {
			t.Errorf("%s: the event is %+.1000v", tc.name, e)
		}
		if v := receive(t, got); v != "next" {
			t.Errorf("%s: got %.100q", tc.name, v)
		}
	}
	nothing(t, got)
}

// The limit holds for what is sent: 1 MiB less 8 KiB by default, header included.
func TestPayloadLimit(t *testing.T) {
	t.Parallel()
	const limit = 1<<20 - 8<<10
	b := bustest.New(t)
	squeezing := bustest.New(t, bus.WithCompression(bus.Compression{Encoding: codec.Zstd}))
	small := bustest.New(t, bus.WithMaxPayload(16<<10))
	large := bustest.New(t, bus.WithMaxPayload(8<<20))
	for _, tc := range []struct {
		name  string
		b     *bus.Bus
		size  int
		opts  []bus.PublishOption
		limit int // 0: it goes
	}{
		{"at", b, limit, nil, 0},
		{"above", b, limit + 1, nil, limit},
		{"header", b, limit - 10, []bus.PublishOption{bus.WithHeader("X", "12345")}, 0},
		{"header too large", b, limit - 10, []bus.PublishOption{bus.WithHeader("X", "123456")}, limit},
		{"only a header", b, 0, []bus.PublishOption{bus.WithHeader("X", strings.Repeat("x", limit))}, limit},
		{"much larger", b, 64 << 20, nil, limit},
		{"compressed", squeezing, 4 << 20, nil, 0},
		{"own limit, at", small, 8 << 10, nil, 0},
		{"own limit, above", small, 8<<10 + 1, nil, 8 << 10},
		{"own large limit", large, 8<<20 - 8<<10, nil, 0},
		{"own large limit, above", large, 8<<20 - 8<<10 + 1, nil, 8<<20 - 8<<10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, got := collect[[]byte](1)
			sub, err := bus.Subscribe(tc.b, "a", h)
			must(t, err)
			err = bus.Publish(t.Context(), tc.b, "a", make([]byte, tc.size), tc.opts...)
			if tc.limit == 0 {
				must(t, err)
				if v := receive(t, got); len(v) != tc.size {
					t.Errorf("got %d bytes", len(v))
				}
			} else {
				p := asError[*bus.PayloadError](t, err, `"a"`, fmt.Sprint(tc.limit), "reference", "WithMaxPayload")
				if p.Limit != tc.limit || p.Size <= tc.limit || p.Subject != "a" {
					t.Errorf("got %+v, want the limit %d", p, tc.limit)
				}
				must(t, tc.b.Flush(t.Context()))
				nothing(t, got)
			}
			must(t, sub.Unsubscribe())
		})
	}
	if b.Conn().Status() != nats.CONNECTED || b.Stats().Disconnects != 0 {
		t.Error("the connection was lost")
	}
}

// The limit of an external server is that server's.
func TestPayloadLimitOfAnotherServer(t *testing.T) {
	t.Parallel()
	server := bustest.New(t, anyPort(), bus.WithMaxPayload(32<<10))
	b := connectTo(t, server)
	err := bus.Publish(t.Context(), b, "a", make([]byte, 24<<10+1))
	if p := asError[*bus.PayloadError](t, err); p.Limit != 24<<10 {
		t.Errorf("the limit is %d", p.Limit)
	}
	must(t, bus.Publish(t.Context(), b, "a", make([]byte, 24<<10)))
	must(t, b.Flush(t.Context()))
}

// checked refuses what is not positive; its method has a pointer receiver.
type checked struct{ N int }

func (c *checked) Validate() error {
	if c.N <= 0 {
		return fmt.Errorf("%d is not positive", c.N)
	}
	return nil
}

// validity publishes a good and a bad value, and a bad one that others sent.
func validity[T any](good, bad T, foreign string) func(*testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		record, events := recordEvents()
		b := bustest.New(t, record)
		h, got := collect[T](10)
		_, err := bus.Subscribe(b, "a", h)
		must(t, err)
		for name, err := range map[string]error{
			"Publish":      bus.Publish(t.Context(), b, "a", bad),
			"PublishBatch": bus.PublishBatch(t.Context(), b, "a", []T{good, bad}),
			"PublishAsync": bus.PublishAsync(t.Context(), b, "a", bad),
		} {
			v := asError[*bus.ValidationError](t, err, `"a"`, "invalid", "is ")
			if v.Subject != "a" || v.Type != reflect.TypeFor[T]().String() || errors.Unwrap(v) == nil {
				t.Errorf("%s: got %+v", name, v)
			}
		}
		must(t, b.Conn().Publish("a", []byte(foreign)))
		asError[*bus.ValidationError](t, nextEvent(t, events, event.HandlerFailed).Err, `"a"`)
		must(t, bus.Publish(t.Context(), b, "a", good))
		if v := receive(t, got); !reflect.DeepEqual(v, good) {
			t.Errorf("got %+v", v)
		}
		nothing(t, got)
		if s := b.Stats(); s.PublishFailed != 3 || s.Published != 1 || s.HandlerErrors != 1 {
			t.Errorf("the statistics are %+v", s)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	t.Run("value receiver", validity[even](2, 3, "3"))
	t.Run("pointer receiver, as a value", validity(checked{1}, checked{-1}, `{"N":-1}`))
	t.Run("pointer receiver, as a pointer", validity(&checked{1}, &checked{-1}, `{"N":-1}`))
	t.Run("value receiver, as a pointer", validity(new(even(2)), new(even(3)), "3"))
	t.Run("embedded", validity(struct{ checked }{checked{1}}, struct{ checked }{checked{-1}}, `{"N":-1}`))
}

// A nil pointer of a type with Validate is invalid, from this program and from another one. Without
// Validate it is a value as any other.
func TestValidateOfNil(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, got := collect[*checked](1)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	asError[*bus.ValidationError](t, bus.Publish(t.Context(), b, "a", (*checked)(nil)), `"a"`, "nil")
	must(t, b.Conn().Publish("a", []byte("null")))
	must(t, bus.Publish(t.Context(), b, "a", &checked{1}))
	if v := receive(t, got); v == nil || v.N != 1 {
		t.Errorf("got %+v", v)
	}
	nothing(t, got)
	plain, all := collect[*order2](1)
	_, err = bus.Subscribe(b, "b", plain)
	must(t, err)
	must(t, bus.Publish(t.Context(), b, "b", (*order2)(nil)))
	if v := receive(t, all); v != nil {
		t.Errorf("got %+v", v)
	}
}

// cycle refers to itself.
type cycle struct{ Next *cycle }

// What cannot be encoded is refused with the reason; nothing is sent.
func TestUnencodableValues(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	everything, err := b.Conn().SubscribeSync(">")
	must(t, err)
	loop := &cycle{}
	loop.Next = loop
	ctx := t.Context()
	for name, tc := range map[string]struct {
		err  error
		text string
	}{
		"channel":           {bus.Publish(ctx, b, "a", make(chan int)), "chan int"},
		"function":          {bus.Publish(ctx, b, "a", func() {}), "func()"},
		"complex":           {bus.Publish(ctx, b, "a", 1i), "complex128"},
		"channel inside":    {bus.Publish(ctx, b, "a", struct{ C chan int }{}), "chan int"},
		"map of structs":    {bus.Publish(ctx, b, "a", map[order2]int{{}: 1}), "map["},
		"not a number":      {bus.Publish(ctx, b, "a", math.NaN()), "NaN"},
		"infinite":          {bus.Publish(ctx, b, "a", math.Inf(1)), "Inf"},
		"cycle":             {bus.Publish(ctx, b, "a", loop), "cycle"},
		"no JSON":           {bus.Publish(ctx, b, "a", json.RawMessage("{")), "malformed"},
		"failing marshaler": {bus.Publish(ctx, b, "a", failing{}), "no way"},
		"not for raw":       {bus.Publish(ctx, b, "a", 1, bus.As(codec.Raw)), "int"},
		"not for text":      {bus.Publish(ctx, b, "a", 1, bus.As(codec.Text)), "int"},
		"not for protobuf":  {bus.Publish(ctx, b, "a", 1, bus.As(codec.Protobuf)), "int"},
		"not UTF-8":         {bus.Publish(ctx, b, "a", "\xff", bus.As(codec.Text)), "UTF-8"},
		"nil message":       {bus.Publish(ctx, b, "a", (*durationpb.Duration)(nil)), "protobuf"},
		"own codec":         {bus.Publish(ctx, b, "a", 1, bus.As(shoutCodec{})), "cannot shout a int"},
		"as async":          {bus.PublishAsync(ctx, b, "a", make(chan int)), "chan int"},
		"in a batch":        {bus.PublishBatch(ctx, b, "a", []any{1, make(chan int)}), "chan int"},
	} {
		c := asError[*bus.CodecError](t, tc.err, `"a"`, "encode", tc.text)
		if c.Op != "encode" || c.Subject != "a" || c.ContentType == "" {
			t.Errorf("%s: got %+v", name, c)
		}
	}
	asError[*bus.OptionError](t, bus.Publish(ctx, b, "a", 1, bus.As(nil)), "As(nil)", "codec.JSON")
	_, err = bus.Subscribe(b, "a", ignore[int], bus.As(nil))
	asError[*bus.OptionError](t, err, "As(nil)")
	must(t, b.Flush(ctx))
	if n, _, err := everything.Pending(); n != 0 {
		t.Errorf("%d messages were sent (%v)", n, err)
	}
	if s := b.Stats(); s.Published != 0 || s.PublishFailed != 19 {
		t.Errorf("published %d, failed %d; want 0, 19", s.Published, s.PublishFailed)
	}
}

type order2 struct{ A int }

// Whatever is on the wire, a subscription neither panics nor stops.
func FuzzReceive(f *testing.F) {
	f.Add("", "", `{"id":"x"}`)
	f.Add("application/cbor", "", "\xa1bidax")
	f.Add("application/protobuf", "gzip", "\x10\x01")
	f.Add("text/plain; charset=utf-8", "zstd", string(compressed(f, codec.Zstd, []byte("text"))))
	f.Add("application/json", "s2", string(compressed(f, codec.S2, []byte(`"x"`))))
	f.Add("///", "br", "\xff\xff\xff\xff")
	record, events := recordEvents()
	b := bustest.New(f, record, bus.WithLogger(silent()), bus.WithCompression(bus.Compression{MaxDecoded: 1 << 20}))
	handled := make(chan struct{}, 16)
	done := func() error {
		handled <- struct{}{}
		return nil
	}
	for _, err := range []error{
		second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[order]) error { return done() })),
		second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[any]) error { return done() })),
		second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[string]) error { return done() })),
		second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[[]byte]) error { return done() })),
		second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[*durationpb.Duration]) error { return done() })),
		second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[time.Time]) error { return done() })),
		second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[even]) error { return done() })),
	} {
		must(f, err)
	}
	f.Fuzz(func(t *testing.T, contentType, encoding, payload string) {
		m := &nats.Msg{Subject: "a", Data: []byte(payload), Header: nats.Header{}}
		for key, value := range map[string]string{"Content-Type": contentType, "Content-Encoding": encoding} {
			if value != "" {
				m.Header[key] = []string{value}
			}
		}
		if b.Conn().PublishMsg(m) != nil {
			t.Skip("it cannot be sent")
		}
		for range 7 {
			select {
			case <-handled:
			case e := <-events:
				if p, ok := errors.AsType[*bus.PanicError](e.Err); ok {
					t.Fatalf("%v\n%s", p, p.Stack)
				}
			case <-time.After(patience):
				t.Fatal("a subscription has stopped")
			}
		}
	})
}

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
