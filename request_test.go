package bus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/event"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	_, err := bus.Respond(b, "math.*.double", double)
	must(t, err)
	for i := range 50 {
		got, err := bus.Request[int](t.Context(), b, bus.Endpoint[int, int]("math.*.double").At(fmt.Sprint(i)), i)
		if err != nil || got != 2*i {
			t.Fatalf("got %d, %v, want %d", got, err, 2*i)
		}
	}
	s := b.Stats()
	if s.Requests != 50 || s.RequestErrors != 0 || s.Received != 50 || s.Published != 50 {
		t.Errorf("the statistics are %+v", s)
	}
}

// exchange has a responder return resp to req, and returns what either side got.
func exchange[Req, Resp any](t *testing.T, b *bus.Bus, req Req, resp Resp, opts ...bus.RequestOption) (Req, Resp, bus.Header) {
	t.Helper()
	asked := make(chan *bus.Msg[Req], 1)
	_, err := bus.Respond(b, "a.b", func(_ context.Context, m *bus.Msg[Req]) (Resp, error) {
		asked <- m
		return resp, nil
	})
	must(t, err)
	got, err := bus.Request(t.Context(), b, bus.Endpoint[Req, Resp]("a.b"), req, opts...)
	must(t, err)
	m := receive(t, asked)
	return m.Data, got, m.Header
}

func TestRequestCarriesEveryKindOfValue(t *testing.T) {
	t.Parallel()
	t.Run("struct", func(t *testing.T) {
		t.Parallel()
		req, resp, h := exchange(t, bustest.New(t), order{ID: "a"}, order{ID: "b"}, bus.WithHeader("X-Who", "me"))
		if req.ID != "a" || resp.ID != "b" || h.Get("X-Who") != "me" {
			t.Errorf("got %+v, %+v, %v", req, resp, h)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		t.Parallel()
		req, resp, h := exchange(t, bustest.New(t), []byte{0, 1}, []byte{2, 0xff})
		if !bytes.Equal(req, []byte{0, 1}) || !bytes.Equal(resp, []byte{2, 0xff}) || h != nil {
			t.Errorf("got %v, %v, %v", req, resp, h)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		req, resp, _ := exchange(t, bustest.New(t), []byte(nil), []byte(nil))
		if len(req) != 0 || len(resp) != 0 {
			t.Errorf("got %v, %v", req, resp)
		}
	})
	t.Run("empty structs", func(t *testing.T) {
		t.Parallel()
		exchange(t, bustest.New(t), struct{}{}, struct{}{})
	})
	t.Run("nil pointers", func(t *testing.T) {
		t.Parallel()
		req, resp, _ := exchange(t, bustest.New(t), (*order)(nil), (*order)(nil))
		if req != nil || resp != nil {
			t.Errorf("got %v, %v", req, resp)
		}
	})
	t.Run("protobuf", func(t *testing.T) {
		t.Parallel()
		req, resp, _ := exchange(t, bustest.New(t), durationpb.New(1), durationpb.New(2))
		if req.Nanos != 1 || resp.Nanos != 2 {
			t.Errorf("got %v, %v", req, resp)
		}
	})
	t.Run("another codec", func(t *testing.T) {
		t.Parallel()
		req, resp, h := exchange(t, bustest.New(t), order{ID: "a"}, order{ID: "b"}, bus.As(codec.CBOR))
		if req.ID != "a" || resp.ID != "b" || h.Get("Content-Type") != "application/cbor" {
			t.Errorf("got %+v, %+v, %v", req, resp, h)
		}
	})
	t.Run("another codec, and a reply whose type implies one", func(t *testing.T) {
		t.Parallel()
		_, resp, _ := exchange(t, bustest.New(t), order{ID: "a"}, durationpb.New(2), bus.As(codec.CBOR))
		if resp.Nanos != 2 {
			t.Errorf("got %v", resp)
		}
		_, raw, _ := exchange(t, bustest.New(t), order{ID: "a"}, json.RawMessage(`{"a" : 1}`), bus.As(codec.CBOR))
		if string(raw) != `{"a" : 1}` {
			t.Errorf("got %s", raw)
		}
		_, data, _ := exchange(t, bustest.New(t), order{ID: "a"}, []byte("x"), bus.As(codec.CBOR))
		if string(data) != "x" {
			t.Errorf("got %q", data)
		}
	})
	t.Run("a request whose type implies a codec", func(t *testing.T) {
		t.Parallel()
		req, resp, _ := exchange(t, bustest.New(t), []byte("raw"), order{ID: "b"})
		if string(req) != "raw" || resp.ID != "b" {
			t.Errorf("got %q, %+v", req, resp)
		}
	})
	t.Run("compressed", func(t *testing.T) {
		t.Parallel()
		b := bustest.New(t, bus.WithCompression(bus.Compression{Encoding: codec.Zstd}))
		big := order{ID: strings.Repeat("a", 10_000)}
		req, resp, h := exchange(t, b, big, big)
		if req.ID != big.ID || resp.ID != big.ID || h.Get("Content-Encoding") != "zstd" || h.Get("Accept-Encoding") != "zstd" {
			t.Errorf("got %d and %d bytes, %v", len(req.ID), len(resp.ID), h)
		}
		if s := b.Stats(); s.CompressionRatio < 10 || s.PublishedBytes > 1000 {
			t.Errorf("the ratio is %v, %d bytes published", s.CompressionRatio, s.PublishedBytes)
		}
	})
}

// Only what a responder says with Public travels.
func TestRemoteErrors(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	for _, tc := range []struct {
		name          string
		fail          func() error
		code, message string
		told          bool // an event tells of it
	}{
		{"plain", func() error { return errors.New("secret: db-7 is down") }, "500", "internal error", true},
		{"public", func() error { return bus.Public("404", "no such order") }, "404", "no such order", false},
		{"public, wrapped", func() error { return fmt.Errorf("secret: %w", bus.Public("404", "no such order")) }, "404", "no such order", false},
		{"public, joined", func() error { return errors.Join(errors.New("secret"), bus.Public("a", "b")) }, "a", "b", false},
		{"public without a code", func() error { return bus.Public("", "x") }, "500", "x", false},
		{"public without a text", func() error { return bus.Public("404", "") }, "404", "", false},
		{"public without anything", func() error { return bus.Public("", "") }, "500", "", false},
		{"line breaks", func() error { return bus.Public("4\r\n04", "a\r\nX-Injected: yes\r\n\r\nbody") }, "4  04", "a  X-Injected: yes    body", false},
		{"not ASCII", func() error { return bus.Public("größe", "zu groß: 日本") }, "größe", "zu groß: 日本", false},
		{"blanks around", func() error { return bus.Public("404", "  x  ") }, "404", "x", false},
		{"endless", func() error { return bus.Public("404", strings.Repeat("ü", 2<<20)) }, "404", strings.Repeat("ü", 1024), false},
		{"an endless code", func() error { return bus.Public(strings.Repeat("x", 2<<20), "a\r\nX-Injected: yes") },
			strings.Repeat("x", 2048), "a  X-Injected: yes", false},
		{"panic", func() error { panic("secret") }, "500", "internal error", true},
		{"panic with an error", func() error { panic(errors.New("secret")) }, "500", "internal error", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sub, err := bus.Respond(b, "fails", func(context.Context, *bus.Msg[int]) (int, error) { return 1, tc.fail() })
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			got, err := bus.Request[int](ctx, b, "fails", 1)
			r := asError[*bus.RemoteError](t, err, `"fails"`)
			if got != 0 || r.Code != tc.code || r.Subject != "fails" || r.Message != tc.message {
				t.Errorf("got %d and %+.300v, want the code %q and the text %q", got, *r, tc.code, tc.message)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the text travelled: %v", err)
			}
			must(t, sub.Drain(t.Context()))
			if tc.told {
				if e := nextEvent(t, events, event.HandlerFailed); !strings.Contains(e.Err.Error(), "secret") || e.Subject != "fails" {
					t.Errorf("the event is %+v", e)
				}
			}
			nothing(t, events)
		})
	}
	if s := b.Stats(); s.Requests != s.RequestErrors || s.HandlerErrors != s.Requests {
		t.Errorf("the statistics are %+v", s)
	}
}

// even is a number that refuses to be odd.
type even int

func (e even) Validate() error {
	if e%2 != 0 {
		return fmt.Errorf("%d is odd", e)
	}
	return nil
}

// What a caller cannot send or make out is a typed error.
func TestRequestThatFailsHere(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	reply := func(data string, h nats.Header) {
		_, err := b.Conn().Subscribe("raw", func(m *nats.Msg) {
			_ = m.RespondMsg(&nats.Msg{Data: []byte(data), Header: h})
		})
		must(t, err)
	}
	reply("3", nil)
	_, err := bus.Request[even](t.Context(), b, "raw", 1)
	asError[*bus.ValidationError](t, err, `"raw"`, "3 is odd")
	_, err = bus.Request[order](t.Context(), b, "raw", 1)
	asError[*bus.CodecError](t, err, `"raw"`, "decode application/json")
	_, err = bus.Request[int](t.Context(), b, "raw", even(1))
	asError[*bus.ValidationError](t, err, "1 is odd")
	_, err = bus.Request[int](t.Context(), b, "raw", func() {})
	asError[*bus.CodecError](t, err, "encode", "func()")
	_, err = bus.Request[int](t.Context(), b, "raw", make([]byte, 1<<20))
	asError[*bus.PayloadError](t, err, "1048576 bytes", "limit is 1040384", "WithMaxPayload")
	_, err = bus.Request[int](t.Context(), b, "raw", 1, bus.WithHeader("Content-Type", "x"))
	asError[*bus.OptionError](t, err, "WithHeader", "Content-Type", "option")
	//nolint:staticcheck // nil is what is tried
	_, err = bus.Request[int](nil, b, "raw", 1)
	asError[*bus.OptionError](t, err, "Request", "ctx is nil")
	_, err = bus.Request[int](t.Context(), nil, "raw", 1)
	asError[*bus.OptionError](t, err, "Request", "bus is nil")
	if s := b.Stats(); s.Requests != 2 || s.RequestErrors != 2 {
		t.Errorf("requests %d, errors %d; want 2, 2", s.Requests, s.RequestErrors)
	}
	for name, h := range map[string]nats.Header{
		"content type": {"Content-Type": {"application/x-unknown"}},
		"no type":      {"Content-Type": {"///"}},
		"encoding":     {"Content-Encoding": {"br"}},
		"garbage":      {"Content-Encoding": {"zstd"}},
	} {
		nc := bustest.New(t)
		_, err := nc.Conn().Subscribe("raw", func(m *nats.Msg) { _ = m.RespondMsg(&nats.Msg{Data: []byte("3"), Header: h}) })
		must(t, err)
		_, err = bus.Request[int](t.Context(), nc, "raw", 1)
		if c := asError[*bus.CodecError](t, err); c.Op != "decode" {
			t.Errorf("%s: got %+v", name, c)
		}
	}
}

func TestRequestWithoutResponders(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	_, err := bus.Request[int](t.Context(), b, "nobody", 1)
	isError(t, err, bus.ErrNoResponders, "nobody serves this subject")
	sub, err := bus.Respond(b, "somebody", double)
	must(t, err)
	must(t, sub.Unsubscribe())
	_, err = bus.Request[int](t.Context(), b, "somebody", 1)
	isError(t, err, bus.ErrNoResponders)
	if s := b.Stats(); s.Requests != 2 || s.RequestErrors != 2 {
		t.Errorf("requests %d, errors %d; want 2, 2", s.Requests, s.RequestErrors)
	}
}

func TestRequestTimesOut(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		_, err := bus.Subscribe(b, "silent", ignore[int])
		must(t, err)
		within := func(ctx context.Context, want time.Duration) error {
			began := time.Now()
			_, err := bus.Request[int](ctx, b, "silent", 1)
			if took := time.Since(began); took != want {
				t.Errorf("it took %v, want %v", took, want)
			}
			return err
		}
		err = within(context.Background(), time.Minute) // the bus's own
		isError(t, err, bus.ErrTimeout, "no reply came within 1m0s (WithTimeout")
		isError(t, err, context.DeadlineExceeded)
		err = within(context.WithoutCancel(t.Context()), time.Minute)
		isError(t, err, bus.ErrTimeout)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err = within(ctx, time.Hour)
		isError(t, err, bus.ErrTimeout, "no reply came by the deadline of ctx")
		isError(t, err, context.DeadlineExceeded)
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		err = within(ctx, time.Second)
		isError(t, err, context.Canceled)
		if errors.Is(err, bus.ErrTimeout) {
			t.Errorf("a cancelled request says %v", err)
		}
		if s := b.Stats(); s.Requests != 4 || s.RequestErrors != 4 {
			t.Errorf("requests %d, errors %d; want 4, 4", s.Requests, s.RequestErrors)
		}
	}, bus.WithTimeout(time.Minute))
}

// A late reply, or a second one, goes to nobody.
func TestLateReply(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		_, err := bus.Respond(b, "slow", func(_ context.Context, m *bus.Msg[int]) (int, error) {
			if m.Data == 1 {
				time.Sleep(time.Minute)
			}
			return m.Data, nil
		}, bus.Concurrency(2))
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = bus.Request[int](ctx, b, "slow", 1)
		isError(t, err, bus.ErrTimeout)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got, err := bus.Request[int](t.Context(), b, "slow", 2); err != nil || got != 2 {
			t.Errorf("got %d, %v, want 2", got, err)
		}
	})
}

// askNobody sends a request on "silent" that is received and never answered. It returns
// where the error of the request will come.
func askNobody(t *testing.T, b *bus.Bus) <-chan error {
	t.Helper()
	asked := make(chan struct{}, 1)
	_, err := b.Conn().Subscribe("silent", func(*nats.Msg) { asked <- struct{}{} })
	must(t, err)
	result := make(chan error, 1)
	go func() { result <- second(bus.Request[int](t.Context(), b, "silent", 1)) }()
	receive(t, asked)
	return result
}

// When the connection drops under a request nobody knows whether it was handled.
func TestRequestWhoseConnectionDrops(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	result := askNobody(t, b)
	must(t, b.Conn().ForceReconnect())
	isError(t, receive(t, result), bus.ErrUnknownOutcome)
	nextEvent(t, events, event.Disconnected)
	nextEvent(t, events, event.Reconnected)
	_, err := bus.Respond(b, "math", double)
	must(t, err)
	if got, err := bus.Request[int](t.Context(), b, "math", 4); err != nil || got != 8 {
		t.Errorf("afterwards: got %d, %v", got, err)
	}
}

// Close does not wait for a reply that never comes. The request was sent, so nobody
// can say that it was not handled.
func TestRequestWhileTheBusCloses(t *testing.T) {
	t.Parallel()
	b := ownBus(t)
	result := askNobody(t, b)
	must(t, b.Close())
	err := receive(t, result)
	isError(t, err, bus.ErrUnknownOutcome, "Request", "connection was closed")
	if errors.Is(err, bus.ErrClosed) || strings.Contains(err.Error(), "disconnected") {
		t.Errorf("%v: as if it was not sent, or the connection came back", err)
	}
	_, err = bus.Request[int](t.Context(), b, "silent", 1)
	isError(t, err, bus.ErrClosed)
	if errors.Is(err, bus.ErrUnknownOutcome) {
		t.Errorf("%v: it was not sent", err)
	}
	_, err = bus.Respond(b, "a", double)
	isError(t, err, bus.ErrClosed)
}

// A request to a subject that a stream stores would be answered by the stream.
func TestRequestIntoAStream(t *testing.T) {
	t.Parallel()
	logger, logged := logTo(hclog.Warn)
	b := bustest.New(t, logger)
	declare(t, b, bus.StreamConfig{Name: "SHOP", Subjects: []string{"shop.>"}})
	must(t, second(bus.Respond(b, "shop.double", double)))
	must(t, second(bus.Respond(b, "other.double", double)))
	if l := logged(t); len(l) != 1 || !strings.HasPrefix(l[0].message, "a stream stores requests to this responder") || l[0].fields["subject"] != "shop.double" || l[0].fields["stream"] != "SHOP" {
		t.Errorf("the log has %+v", l)
	}
	_, err := bus.Request[int](t.Context(), b, "shop.double", 2)
	e := asError[*bus.CapturedError](t, err, `"shop.double"`, `"SHOP"`, "the stream's acknowledgement as its reply", "a subject that no stream stores")
	if e.Call != "Request" || e.Subject != "shop.double" || e.Stream != "SHOP" {
		t.Errorf("got %+v", e)
	}
	if n := streamInfo(t, b, "SHOP").State.Msgs; n != 0 {
		t.Errorf("%d requests are stored", n)
	}
	if v, err := bus.Request[int](t.Context(), b, "other.double", 2); v != 4 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
	// Nor does the stream answer when it is gone, or stores without a word.
	must(t, b.JetStream().DeleteStream(t.Context(), "SHOP"))
	if v, err := bus.Request[int](t.Context(), b, "shop.double", 2); v != 4 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
	must(t, second(b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "LOG", Subjects: []string{"shop.>"}, NoAck: true})))
	must(t, second(b.LookupStream(t.Context(), "LOG")))
	if v, err := bus.Request[int](t.Context(), b, "shop.double", 2); v != 4 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
	eventually(t, "the request is stored", func() bool { return streamInfo(t, b, "LOG").State.Msgs == 1 }) // without a word
}

// A stream of another program is unknown until it answers a request. Whatever type the
// reply has, its acknowledgement is no reply.
func TestRequestIntoAnUnknownStream(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		config  jetstream.StreamConfig
		request func(*testing.T, *bus.Bus) error
	}{
		{"a struct", jetstream.StreamConfig{}, func(t *testing.T, b *bus.Bus) error {
			return second(bus.Request(t.Context(), b, bus.Endpoint[int, struct{ Cents int }]("shop.double"), 2))
		}},
		{"any", jetstream.StreamConfig{}, func(t *testing.T, b *bus.Bus) error {
			return second(bus.Request[any](t.Context(), b, "shop.double", 2))
		}},
		{"bytes", jetstream.StreamConfig{}, func(t *testing.T, b *bus.Bus) error {
			return second(bus.Request(t.Context(), b, bus.Endpoint[[]byte, []byte]("shop.double"), []byte("2")))
		}},
		{"a raw codec", jetstream.StreamConfig{}, func(t *testing.T, b *bus.Bus) error {
			return second(bus.Request(t.Context(), b, bus.Endpoint[string, string]("shop.double"), "2", bus.As(codec.Text)))
		}},
		{"a refusal", jetstream.StreamConfig{MaxMsgSize: 1}, func(t *testing.T, b *bus.Bus) error {
			return second(bus.Request[struct{ Cents int }](t.Context(), b, "shop.double", 123456))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			tc.config.Name, tc.config.Subjects, tc.config.Storage = "ALL", []string{"shop.>"}, jetstream.MemoryStorage
			must(t, second(b.JetStream().CreateStream(t.Context(), tc.config)))
			e := asError[*bus.CapturedError](t, tc.request(t, b), `"shop.double"`, `"ALL"`, "came as the reply", "may be stored", "a subject that no stream stores")
			if e.Call != "Request" || e.Subject != "shop.double" || e.Stream != "ALL" || !e.Sent {
				t.Errorf("got %+v", e)
			}
			if n := b.Stats().RequestErrors; n != 1 {
				t.Errorf("%d request errors", n)
			}
			if again := asError[*bus.CapturedError](t, tc.request(t, b)); again.Sent { // now it is known
				t.Errorf("got %+v", again)
			}
		})
	}
}

// A responder may answer what looks like an acknowledgement, as a gateway does that stores
// for others. It is a reply, unless the server cannot be asked.
func TestReplyThatLooksLikeAnAcknowledgement(t *testing.T) {
	t.Parallel()
	type ack struct {
		Stream string `json:"stream"`
		Seq    int    `json:"seq"`
		Domain string `json:"domain,omitempty"`
	}
	b := bustest.New(t)
	must(t, second(b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Storage: jetstream.MemoryStorage})))
	must(t, second(bus.Respond(b, "gateway", func(_ context.Context, m *bus.Msg[ack]) (ack, error) { return m.Data, nil })))
	for _, want := range []ack{{"S", 1, ""}, {"GONE", 1, ""}, {"GONE", 1, "nowhere"}} {
		if got, err := bus.Request[ack](t.Context(), b, "gateway", want); got != want || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	must(t, second(b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "QUIET", Subjects: []string{"gateway"}, Storage: jetstream.MemoryStorage, NoAck: true})))
	want := ack{"QUIET", 1, ""}
	if got, err := bus.Request[ack](t.Context(), b, "gateway", want); got != want || err != nil {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}
