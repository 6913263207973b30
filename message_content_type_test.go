package bus_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
)

// A message names its codec whenever a receiver would assume another one: one that
// knows only the type, or one with the sender's own rules.
func TestContentTypeIsWrittenWhereItSaysSomething(t *testing.T) {
	t.Parallel()
	type value struct{ A int }
	for name, test := range map[string]struct {
		opts []bus.Option
		as   []bus.PublishOption
		want string
	}{
		"JSON is the default":         {nil, nil, ""},
		"JSON by As":                  {nil, []bus.PublishOption{bus.As(codec.JSON)}, ""},
		"CBOR by As":                  {nil, []bus.PublishOption{bus.As(codec.CBOR)}, "application/cbor"},
		"CBOR by the bus":             {[]bus.Option{bus.WithCodec(codec.CBOR)}, nil, "application/cbor"},
		"JSON by As on a CBOR bus":    {[]bus.Option{bus.WithCodec(codec.CBOR)}, []bus.PublishOption{bus.As(codec.JSON)}, "application/json"},
		"CBOR by a rule":              {[]bus.Option{bus.WithCodecFor("s", codec.CBOR)}, nil, "application/cbor"},
		"JSON by As against the rule": {[]bus.Option{bus.WithCodecFor("s", codec.CBOR)}, []bus.PublishOption{bus.As(codec.JSON)}, "application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, test.opts...)
			got := make(chan *bus.Msg[value], 1)
			_, err := bus.Subscribe(b, "s", func(_ context.Context, m *bus.Msg[value]) error { got <- m; return nil })
			if err != nil {
				t.Fatal(err)
			}
			if err := bus.Publish(t.Context(), b, "s", value{A: 7}, test.as...); err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				t.Fatal("the bus cannot read its own message")
			}
			if m := <-got; m.Data.A != 7 || m.Header.Get("Content-Type") != test.want {
				t.Errorf("got %+v with content type %q, want 7 with %q", m.Data, m.Header.Get("Content-Type"), test.want)
			}
		})
	}
}

// Who asks for bytes gets them, whatever the sender says they are.
func TestBytesOfAnUnknownContentType(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	got := make(chan *bus.Msg[[]byte], 1)
	_, err := bus.Subscribe(b, "pictures", func(_ context.Context, m *bus.Msg[[]byte]) error { got <- m; return nil })
	if err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg("pictures")
	m.Data = []byte("a picture")
	m.Header.Set("Content-Type", "image/png")
	if err := b.Conn().PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 {
		t.Fatal("the message did not arrive")
	}
	if m := <-got; string(m.Data) != "a picture" || m.Header.Get("Content-Type") != "image/png" {
		t.Errorf("got %q with header %v", m.Data, m.Header)
	}
}

// Bytes are a payload already: no rule for a subject encodes them once more.
func TestBytesUnderARuleOfASubject(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithCodecFor("pictures.>", codec.CBOR))
	got := make(chan *bus.RawMsg, 1)
	_, err := bus.Subscribe(b, "pictures.*", func(_ context.Context, m *bus.RawMsg) error { got <- m; return nil })
	must(t, err)
	must(t, bus.Publish(t.Context(), b, "pictures.cat", []byte("a picture")))
	must(t, b.Close())
	if m := <-got; string(m.Data) != "a picture" || m.Header != nil {
		t.Errorf("got %q with header %v", m.Data, m.Header)
	}
}

// A payload that receivers would refuse to decompress is refused by the sender.
func TestPayloadThatNobodyWouldDecompress(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithCompression(bus.Compression{Encoding: codec.Zstd, MaxDecoded: 2 << 20}))
	if err := bus.Publish(t.Context(), b, "s", bytes.Repeat([]byte{0}, 2<<20)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	err := bus.Publish(t.Context(), b, "s", bytes.Repeat([]byte{0}, 2<<20+1))
	if _, ok := errors.AsType[*bus.PayloadError](err); !ok {
		t.Errorf("above the limit: error %v, want a *PayloadError", err)
	}
}

// A payload whose codec the handler's type cannot take is a dead letter at once, with a reason that
// says so. One with a suffix, or with parameters, is read.
func TestContentTypesThatAHandlerCannotTake(t *testing.T) {
	t.Parallel()
	type order struct{ A int }
	b := bustest.New(t)
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>", "times.>"}})
	must(t, err)
	orders, times := make(chan order, 10), make(chan *durationpb.Duration, 10)
	_, err = bus.Consume(t.Context(), st, "orders", bus.Subject[order]("orders.>"), func(_ context.Context, m *bus.Msg[order]) error { orders <- m.Data; return nil })
	must(t, err)
	_, err = bus.Consume(t.Context(), st, "times", bus.Subject[*durationpb.Duration]("times.>"), func(_ context.Context, m *bus.Msg[*durationpb.Duration]) error {
		times <- m.Data
		return nil
	})
	must(t, err)
	send := func(subj, contentType, data string) {
		t.Helper()
		m := nats.NewMsg(subj)
		m.Header.Set("Content-Type", contentType)
		m.Data = []byte(data)
		_, err := b.JetStream().PublishMsg(t.Context(), m)
		must(t, err)
	}
	send("orders.1", "application/vnd.orders.v1+json; charset=utf-8", `{"A":1}`)
	send("orders.2", "application/vnd.orders+cbor", "\xa1\x61A\x02")
	send("orders.3", "text/plain", "3")
	send("orders.4", "application/protobuf", "")
	send("times.1", "application/json", `"3600s"`)
	send("times.2", "application/cbor", "\xa0")
	for _, want := range []int{1, 2} {
		if got := <-orders; got.A != want {
			t.Errorf("got %v, want %d", got, want)
		}
	}
	if got := <-times; got.AsDuration() != time.Hour {
		t.Errorf("got %v", got)
	}
	want := map[string]string{"orders.3": "text cannot use", "orders.4": "protobuf cannot use", "times.2": "cbor cannot use durationpb.Duration"}
	deadline := time.Now().Add(10 * time.Second)
	for len(want) > 0 && time.Now().Before(deadline) {
		for l, err := range st.DeadLetters(t.Context(), bus.DeadFilter{}) {
			must(t, err)
			if part := want[l.Subject]; !strings.Contains(l.Error, part) {
				t.Errorf("%s: %s", l.Subject, l.Error)
			}
			delete(want, l.Subject)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(want) > 0 {
		t.Errorf("no dead letters of %v", want)
	}
}
