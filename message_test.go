package bus_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// whole returns a handler that passes the messages themselves on.
func whole[T any](size int) (bus.Handler[T], <-chan *bus.Msg[T]) {
	ch := make(chan *bus.Msg[T], size)
	return func(_ context.Context, m *bus.Msg[T]) error {
		ch <- m
		return nil
	}, ch
}

func TestCoreMessage(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, got := whole[int](10)
	_, err := bus.Subscribe(b, "a.>", h)
	must(t, err)
	must(t, bus.Publish(t.Context(), b, "a.b.c", 7))
	m := receive(t, got)
	if m.Data != 7 || m.Subject != "a.b.c" || m.Header != nil || m.ID != "" || !m.Time.IsZero() || m.Stream != "" || m.Sequence != 0 || m.Attempt != 1 || m.Deliveries != 0 {
		t.Errorf("got %+v", m)
	}
	must(t, bus.Publish(t.Context(), b, "a.x", 8, bus.MsgID("id-1"), bus.WithHeader("X-A", "1")))
	m = receive(t, got)
	if m.Data != 8 || m.ID != "id-1" || m.Header.Get("X-A") != "1" || m.Attempt != 1 || m.Sequence != 0 {
		t.Errorf("got %+v", m)
	}
}

func TestStoredMessage(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	must(t, err)
	before := time.Now().Add(-time.Second)
	_, err = bus.PublishTo(t.Context(), st, "s.a", "x")
	must(t, err)
	_, err = bus.PublishTo(t.Context(), st, "s.b", "y", bus.MsgID("id-2"))
	must(t, err)
	h, got := whole[string](10)
	_, err = bus.Consume(t.Context(), st, "c", "s.*", h)
	must(t, err)
	for i, id := range []string{"S/1", "id-2"} {
		m := receive(t, got)
		if m.ID != id || m.Stream != "S" || m.Sequence != uint64(i+1) || m.Attempt != 1 || m.Deliveries != 1 || m.Time.Before(before) || m.Time.After(time.Now().Add(time.Second)) {
			t.Errorf("got %+v", m)
		}
	}
}

// A handler may keep its messages: later ones do not write over them.
func TestMessagesMayBeKept(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, got := whole[[]byte](1000)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	payload := make([]byte, 64)
	for i := range 1000 {
		for j := range payload {
			payload[j] = byte(i)
		}
		must(t, bus.Publish(t.Context(), b, "a", payload, bus.WithHeader("X-I", strings.Repeat(string(rune('a'+i%26)), 3))))
	}
	kept := make([]*bus.Msg[[]byte], 1000)
	for i := range kept {
		kept[i] = receive(t, got)
		kept[i].Data = append(kept[i].Data, "grown"...) // it is the handler's
	}
	for i, m := range kept {
		if m.Data[0] != byte(i) || m.Data[63] != byte(i) || m.Header.Get("X-I") != strings.Repeat(string(rune('a'+i%26)), 3) {
			t.Fatalf("message %d was overwritten: %v %v", i, m.Data, m.Header)
		}
	}
}

func TestHeaderOfAMessage(t *testing.T) {
	t.Parallel()
	h := bus.Header{"X-Many": {"1", "2"}, "traceParent": {"t"}, "X-Empty": {}}
	for key, want := range map[string]string{"X-Many": "1", "x-many": "1", "Traceparent": "t", "X-Empty": "", "absent": ""} {
		if got := h.Get(key); got != want {
			t.Errorf("Get(%q) is %q, want %q", key, got, want)
		}
	}
	if got := h.Values("X-Many"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("got %q", got)
	}
	if got := h.Values("x-many"); got != nil {
		t.Errorf("got %q", got)
	}
	h.Set("X-Many", "3")
	if got := h.Values("X-Many"); !slices.Equal(got, []string{"3"}) {
		t.Errorf("got %q", got)
	}
	var none bus.Header
	if none.Get("a") != "" || none.Values("a") != nil {
		t.Error("a nil header has values")
	}
}

// The headers of the server make a message a schedule, in a stream that allows schedules.
func TestScheduleByHeaders(t *testing.T) {
	t.Parallel()
	st := declare(t, bustest.New(t), bus.StreamConfig{Name: "S", Subjects: []string{"at.*", "due.*"},
		Raw: func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = true }})
	h, got := whole[int](1)
	consume(t, st, "c", "due.*", h)
	_, err := bus.PublishTo(t.Context(), st, "at.a", 7,
		bus.WithHeader("Nats-Schedule", "@at "+time.Now().UTC().Format(time.RFC3339)), bus.WithHeader("Nats-Schedule-Target", "due.a"))
	must(t, err)
	if m := receive(t, got); m.Data != 7 || m.Subject != "due.a" {
		t.Errorf("got %d on %s", m.Data, m.Subject)
	}
}

// Header values arrive as they were sent.
func TestWithHeader(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, got := whole[int](1)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	for _, tc := range []struct{ key, value string }{
		{"X-A", "b"},
		{"x-lower_case.dot", "b"},
		{"X-Empty", ""},
		{"X-Inside", "a b\tc: d; \"e\" = {}"},
		{"X-Unicode", "größe 日本 🚌"},
		{"X-Bytes", "\xff\xfe\x01\x7f"},
		{"X-Long", strings.Repeat("y", 5000)},
		{"X-Trace-Like", "NATS/1.0 503"},
		{"Status", "503"},
		{"!#$%&'*+-.^_`|~", "every character there is"},
	} {
		must(t, bus.Publish(t.Context(), b, "a", 1, bus.WithHeader(tc.key, tc.value)))
		if m := receive(t, got); m.Data != 1 || len(m.Header) != 1 || !slices.Equal(m.Header.Values(tc.key), []string{tc.value}) {
			t.Errorf("%s: got %q, want %q", tc.key, m.Header, tc.value)
		}
	}
	must(t, bus.Publish(t.Context(), b, "a", 1, bus.WithHeader("X", "1"), bus.WithHeader("x", "2"), bus.WithHeader("X", "3")))
	if m := receive(t, got); !slices.Equal(m.Header["X"], []string{"1", "3"}) || !slices.Equal(m.Header["x"], []string{"2"}) {
		t.Errorf("got %q", m.Header)
	}
}

// No header can smuggle in another one, a payload, or what the library says.
func TestHeadersAreRefused(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	must(t, err)
	everything, err := b.Conn().SubscribeSync("*") // not the advisories of the server
	must(t, err)
	must(t, b.Flush(t.Context()))
	for _, tc := range []struct{ name, key, value, text string }{
		{"empty name", "", "x", "empty"},
		{"blank", "a b", "x", `' '`},
		{"colon", "a:b", "x", `':'`},
		{"line break in the name", "a\r\nb", "x", `'\r'`},
		{"nul in the name", "a\x00", "x", `'\x00'`},
		{"not ASCII", "größe", "x", "letters, digits"},
		{"line break", "A", "x\r\nNats-Msg-Id: 1", `'\r'`},
		{"line feed", "A", "x\nB: c", `'\n'`},
		{"end of the header", "A", "x\r\n\r\npayload", `'\r'`},
		{"nul", "A", "\x00", `'\x00'`},
		{"blank before", "A", " x", "blank"},
		{"blank behind", "A", "x\t", "blank"},
		{"content type", "Content-Type", "text/plain", "option"},
		{"content type, spelt otherwise", "content-TYPE", "text/plain", "option"},
		{"encoding", "Content-Encoding", "zstd", "option"},
		{"accepted encoding", "Accept-Encoding", "zstd", "option"},
		{"message id", "Nats-Msg-Id", "1", "option"},
		{"bus id", "Bus-Id", "1", "option"},
		{"service error", "Nats-Service-Error", "1", "option"},
		{"service error code", "Nats-Service-Error-Code", "1", "option"},
	} {
		o := bus.WithHeader(tc.key, tc.value)
		_, requested := bus.Request[int](t.Context(), b, "a", 1, o)
		_, stored := bus.PublishTo(t.Context(), st, "s", 1, o)
		for call, err := range map[string]error{
			"Publish":      bus.Publish(t.Context(), b, "a", 1, o),
			"PublishBatch": bus.PublishBatch(t.Context(), b, "a", []int{1}, o),
			"PublishAsync": bus.PublishAsync(t.Context(), b, "a", 1, o),
			"Request":      requested,
			"PublishTo":    stored,
		} {
			if e := asError[*bus.OptionError](t, err, "WithHeader", tc.text); e.Option != "WithHeader" || strings.ContainsAny(err.Error(), "\r\n\x00") {
				t.Errorf("%s, %s: got %q", call, tc.name, err)
			}
		}
	}
	must(t, b.Flush(t.Context()))
	if n, _, err := everything.Pending(); n != 0 {
		t.Errorf("%d messages were sent (%v)", n, err)
	}
}

func TestMsgID(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, got := whole[int](1)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	for _, id := range []string{"x", "größe/日本", strings.Repeat("x", 256), "a b\tc"} {
		must(t, bus.Publish(t.Context(), b, "a", 1, bus.MsgID(id)))
		if m := receive(t, got); m.ID != id {
			t.Errorf("got %q, want %q", m.ID, id)
		}
	}
	for name, tc := range map[string]struct{ id, text string }{
		"empty":      {"", "1 to 256 bytes"},
		"too long":   {strings.Repeat("x", 257), "1 to 256 bytes"},
		"endless":    {strings.Repeat("x", 1<<20), "1 to 256 bytes"},
		"line break": {"a\r\nb", `'\r'`},
		"blank":      {" a", "blank"},
	} {
		err := bus.Publish(t.Context(), b, "a", 1, bus.MsgID(tc.id))
		if asError[*bus.OptionError](t, err, "MsgID", tc.text); len(err.Error()) > 500 {
			t.Errorf("%s: the text has %d bytes", name, len(err.Error()))
		}
	}
	// The later one counts, as for every option.
	must(t, bus.Publish(t.Context(), b, "a", 1, bus.MsgID("first"), bus.MsgID("second")))
	if m := receive(t, got); m.ID != "second" || len(m.Header["Nats-Msg-Id"]) != 1 {
		t.Errorf("got %q, %v", m.ID, m.Header)
	}
	// Bus-Id goes before the server's.
	must(t, b.Conn().PublishMsg(&nats.Msg{Subject: "a", Data: []byte("1"), Header: nats.Header{"Bus-Id": {"ours"}, "Nats-Msg-Id": {"theirs"}}}))
	if m := receive(t, got); m.ID != "ours" {
		t.Errorf("got %q", m.ID)
	}
}

// A nil option is a mistake of the program's and is told as one.
func TestNilOptions(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	must(t, err)
	calls := map[string]func() error{
		"Publish":      func() error { return bus.Publish(t.Context(), b, "a", 1, nil) },
		"PublishBatch": func() error { return bus.PublishBatch(t.Context(), b, "a", []int{1}, nil) },
		"PublishAsync": func() error { return bus.PublishAsync(t.Context(), b, "a", 1, nil) },
		"Request":      func() error { _, err := bus.Request[int](t.Context(), b, "a", 1, nil); return err },
		"PublishTo":    func() error { _, err := bus.PublishTo(t.Context(), st, "s", 1, nil); return err },
		"Subscribe":    func() error { _, err := bus.Subscribe(b, "a", ignore[int], nil); return err },
		"Respond":      func() error { _, err := bus.Respond(b, "a", double, nil); return err },
		"Consume":      func() error { _, err := bus.Consume(t.Context(), st, "c", "s", ignore[int], nil); return err },
		"New":          func() error { _, err := bus.New(nil); return err },
		"Connect":      func() error { _, err := bus.Connect(t.Context(), "nats://127.0.0.1:1", nil); return err },
	}
	for name, call := range calls {
		err := func() (err error) {
			defer func() {
				if v := recover(); v != nil {
					t.Errorf("%s panics: %v", name, v)
				}
			}()
			return call()
		}()
		if err != nil {
			asError[*bus.OptionError](t, err, "nil", "leave it out")
		}
	}
}
