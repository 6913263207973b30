package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/event"
)

// Whoever asks chooses the reply subject. The answer must not use the rights of the
// responder for what the requester may not do itself.
func TestRespondOnlyWhereAnAnswerIsAllowed(t *testing.T) {
	t.Parallel()
	events := make(chan event.Event, 10)
	b := bustest.New(t, anyPort(), bus.WithName("shop"), bus.WithEvents(func(e event.Event) { events <- e }))
	st := declare(t, b, bus.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[string]("orders.x"), "an order")))
	must(t, second(bus.Respond(b, "quote", func(_ context.Context, m *bus.Msg[int]) (int, error) { return m.Data, nil })))
	nc := rawClient(t, b)
	for _, reply := range []string{"$JS.API.STREAM.DELETE.ORDERS", "orders.y", "$SYS.REQ.SERVER.PING"} {
		for subject, data := range map[string]string{"quote": "1", "$SRV.PING": ""} {
			must(t, nc.PublishRequest(subject, reply, []byte(data)))
			if e := receive(t, events); e.Kind != event.HandlerFailed || e.Subject != subject || !strings.Contains(fmt.Sprint(e.Err), "not answered") {
				t.Errorf("a request to %s with the reply subject %s made %+v", subject, reply, e)
			}
		}
		must(t, nc.PublishRequest("quote", reply, []byte("no number"))) // this error would be the answer
		receive(t, events)
		receive(t, events)
	}
	info, err := b.JetStream().Stream(t.Context(), "ORDERS")
	must(t, err)
	if n := info.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("the stream has %d messages, want 1", n)
	}
	if v, err := bus.Request(t.Context(), b, bus.Endpoint[int, int]("quote"), 5); v != 5 || err != nil {
		t.Errorf("another request got %d, %v", v, err)
	}
}

// rawRequest sends a request as any NATS client does.
func rawRequest(t testing.TB, nc *nats.Conn, subject, header, data string) *nats.Msg {
	t.Helper()
	m := &nats.Msg{Subject: subject, Data: []byte(data)}
	if key, value, ok := strings.Cut(header, ": "); ok {
		m.Header = nats.Header{key: {value}}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reply, err := nc.RequestMsgWithContext(ctx, m)
	must(t, err)
	return reply
}

// The reply is compressed only for who asks, and however oddly he asks he gets
// one.
func TestReplyIsCompressedWhenAsked(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	big := strings.Repeat("a", 5000)
	_, err := bus.Respond(b, "big", func(context.Context, *bus.Msg[string]) (string, error) { return big, nil })
	must(t, err)
	_, err = bus.Respond(b, "small", func(context.Context, *bus.Msg[string]) (string, error) { return "aaaa", nil })
	must(t, err)
	for _, tc := range []struct{ subject, header, want string }{
		{"big", "", ""},
		{"big", "Accept-Encoding: zstd", "zstd"},
		{"big", "accept-encoding: s2", "s2"},
		{"big", "Accept-Encoding: gzip", "gzip"},
		{"big", "Accept-Encoding: GZIP", "gzip"},
		{"big", "Accept-Encoding: br, gzip;q=0.8, *", "gzip"},
		{"big", "Accept-Encoding: br", ""},
		{"big", "Accept-Encoding: identity", ""},
		{"big", "Accept-Encoding: *", ""},
		{"big", "Accept-Encoding: ,;,", ""},
		{"small", "Accept-Encoding: zstd", ""},
	} {
		reply := rawRequest(t, b.Conn(), tc.subject, tc.header, `""`)
		if got := reply.Header.Get("Content-Encoding"); got != tc.want || reply.Header.Get(micro.ErrorHeader) != "" {
			t.Errorf("%s, %q: the reply has the headers %v, want the encoding %q", tc.subject, tc.header, reply.Header, tc.want)
		}
		if tc.want == "" && tc.subject == "big" && string(reply.Data) != `"`+big+`"` {
			t.Errorf("%q: got %d bytes", tc.header, len(reply.Data))
		}
	}
}

// A responder that was told to read plain requests in a codec answers them in it.
func TestReplyToAPlainRequestOfAnotherCodec(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	_, err := bus.Respond(b, "a", func(_ context.Context, m *bus.Msg[order]) (order, error) { return m.Data, nil }, bus.As(codec.CBOR))
	must(t, err)
	data, err := codec.CBOR.Marshal(order{ID: "x"})
	must(t, err)
	reply := rawRequest(t, b.Conn(), "a", "", string(data))
	var got order
	if err := codec.CBOR.Unmarshal(reply.Data, &got); err != nil || got.ID != "x" || reply.Header.Get("Content-Type") != "application/cbor" {
		t.Errorf("got %q, %v (%v)", reply.Data, reply.Header, err)
	}
}

// A request that a responder cannot read is the caller's mistake, and the caller
// is told so; what it cannot answer is "internal error". Both are events with
// their types at the responder.
func TestResponderThatCannotAnswer(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	for _, tc := range []struct {
		name    string
		respond func() (*bus.Subscription, error)
		data    string
		told    string // to the caller
		check   func(*testing.T, error)
	}{
		{"malformed request", func() (*bus.Subscription, error) { return bus.Respond(b, "a", double) }, "{", "400 malformed request", func(t *testing.T, err error) {
			asError[*bus.CodecError](t, err, "decode", "application/json")
		}},
		{"empty request", func() (*bus.Subscription, error) { return bus.Respond(b, "a", double) }, "", "400 malformed request", func(t *testing.T, err error) {
			asError[*bus.CodecError](t, err, "decode")
		}},
		{"invalid request", func() (*bus.Subscription, error) {
			return bus.Respond(b, "a", func(context.Context, *bus.Msg[even]) (int, error) { return 0, nil })
		}, "3", "400 invalid request", func(t *testing.T, err error) {
			asError[*bus.ValidationError](t, err, "3 is odd", "even")
		}},
		{"invalid reply", func() (*bus.Subscription, error) {
			return bus.Respond(b, "a", func(context.Context, *bus.Msg[int]) (even, error) { return 5, nil })
		}, "3", "500 internal error", func(t *testing.T, err error) {
			asError[*bus.ValidationError](t, err, "5 is odd")
		}},
		{"reply of no type for the codec", func() (*bus.Subscription, error) {
			return bus.Respond(b, "a", func(context.Context, *bus.Msg[int]) (any, error) { return make(chan int), nil })
		}, "3", "500 internal error", func(t *testing.T, err error) {
			asError[*bus.CodecError](t, err, "encode", "chan int")
		}},
		{"reply too large", func() (*bus.Subscription, error) {
			return bus.Respond(b, "a", func(context.Context, *bus.Msg[int]) ([]byte, error) { return make([]byte, 1<<20), nil })
		}, "3", "500 internal error", func(t *testing.T, err error) {
			asError[*bus.PayloadError](t, err, "1048576 bytes", "limit")
		}},
		{"unknown content type", func() (*bus.Subscription, error) { return bus.Respond(b, "a", double) }, "Content-Type: a/b", "415 unknown content type or encoding", func(t *testing.T, err error) {
			asError[*bus.CodecError](t, err, "decode", "a/b")
		}},
		{"unknown encoding", func() (*bus.Subscription, error) { return bus.Respond(b, "a", double) }, "Content-Encoding: br", "415 unknown content type or encoding", func(t *testing.T, err error) {
			asError[*bus.CodecError](t, err, "decode", "br")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sub, err := tc.respond()
			must(t, err)
			reply := rawRequest(t, b.Conn(), "a", tc.data, tc.data) // as a header where it is one
			if got := reply.Header.Get(micro.ErrorCodeHeader) + " " + reply.Header.Get(micro.ErrorHeader); got != tc.told || len(reply.Data) != 0 {
				t.Errorf("got %q, %v", reply.Data, reply.Header)
			}
			tc.check(t, nextEvent(t, events, event.HandlerFailed).Err)
			must(t, sub.Drain(t.Context()))
			nothing(t, events)
		})
	}
}

// A message that wants no reply is handled all the same.
func TestRespondToAMessageWithoutReply(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	got := make(chan int, 10)
	sub, err := bus.Respond(b, "a", func(_ context.Context, m *bus.Msg[int]) (int, error) {
		got <- m.Data
		if m.Data == 2 {
			return 0, errors.New("boom")
		}
		return 0, bus.Public("x", "y")
	})
	must(t, err)
	publishRange(t, b, "a", 1, 4)
	must(t, sub.Drain(t.Context()))
	if len(got) != 3 {
		t.Errorf("%d handled, want 3", len(got))
	}
	nextEvent(t, events, event.HandlerFailed)
	nothing(t, events)
}

func TestRespondConcurrency(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		var now, most atomic.Int64
		_, err := bus.Respond(b, "a", func(_ context.Context, m *bus.Msg[int]) (int, error) {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			return m.Data, nil
		}, bus.Concurrency(4))
		must(t, err)
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if got, err := bus.Request[int](t.Context(), b, "a", i); err != nil || got != i {
					t.Errorf("got %d, %v, want %d", got, err, i)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took != 5*time.Second || most.Load() != 4 {
			t.Errorf("it took %v with %d at once, want 5s with 4", took, most.Load())
		}
	}, bus.WithTimeout(time.Hour))
}

// Requests from within a responder, to itself even, do not stall.
func TestRequestFromAResponder(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	_, err := bus.Respond(b, "down", func(ctx context.Context, m *bus.Msg[int]) (int, error) {
		if m.Data == 0 {
			return 0, nil
		}
		n, err := bus.Request[int](ctx, b, "down", m.Data-1)
		return n + 1, err
	}, bus.Concurrency(8))
	must(t, err)
	if got, err := bus.Request[int](t.Context(), b, "down", 7); err != nil || got != 7 {
		t.Errorf("got %d, %v, want 7", got, err)
	}
}

// Instances of one program share the requests; another queue gets them too.
func TestRespondersShareRequests(t *testing.T) {
	t.Parallel()
	server := bustest.New(t, anyPort(), bus.WithName("shop"))
	same := connectTo(t, server, bus.WithName("shop"))
	other := connectTo(t, server, bus.WithName("audit"))
	var counts [3]atomic.Int64
	var all sync.WaitGroup
	for i, b := range []*bus.Bus{server, same, other} {
		_, err := bus.Respond(b, "who", func(context.Context, *bus.Msg[int]) (int, error) {
			counts[i].Add(1)
			all.Done()
			return i, nil
		})
		must(t, err)
	}
	const n = 200
	all.Add(2 * n)
	for range n {
		_, err := bus.Request[int](t.Context(), same, "who", 1)
		must(t, err)
	}
	all.Wait()
	if a, b, c := counts[0].Load(), counts[1].Load(), counts[2].Load(); a+b != n || c != n || a == 0 || b == 0 {
		t.Errorf("the two instances got %d and %d, the other program %d, of %d", a, b, c, n)
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
