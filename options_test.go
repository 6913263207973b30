package bus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
)

// namedCodec is a codec of whatever content type.
type namedCodec struct{ contentType string }

func (c namedCodec) ContentType() string         { return c.contentType }
func (c namedCodec) Marshal(any) ([]byte, error) { return nil, nil }
func (c namedCodec) Unmarshal([]byte, any) error { return nil }

// Each bad option is refused by itself, with its name, its value and what would do.
func TestBadOptions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		option bus.Option
		text   []string
	}{
		{"WithName", bus.WithName(""), []string{`WithName("")`, "letters"}},
		{"WithName", bus.WithName("a.b"), []string{`"a.b"`}},
		{"WithName", bus.WithName("a b"), []string{`"a b"`}},
		{"WithName", bus.WithName("größe"), []string{"größe"}},
		{"WithName", bus.WithName("a\r\nb"), []string{`"a\r\nb"`}},
		{"WithName", bus.WithName(strings.Repeat("a", 129)), []string{"1 to 128"}},
		{"WithVersion", bus.WithVersion("v1.2.3"), []string{`"v1.2.3"`, `"1.2.3"`}},
		{"WithVersion", bus.WithVersion("1.2"), []string{`"1.2"`}},
		{"WithVersion", bus.WithVersion(""), []string{`""`}},
		{"WithLogger", bus.WithLogger(nil), []string{"nil", "NewNullLogger"}},
		{"WithSlog", bus.WithSlog(nil), []string{"nil"}},
		{"WithEvents", bus.WithEvents(nil), []string{"nil", "function"}},
		{"WithCodec", bus.WithCodec(nil), []string{"nil", "codec.JSON"}},
		{"WithCodec", bus.WithCodec(namedCodec{"nonsense"}), []string{"nonsense"}},
		{"WithCodec", bus.WithCodec(namedCodec{"Text/Plain"}), []string{"lower case"}},
		{"WithCodecFor", bus.WithCodecFor("a", nil), []string{"nil", "codec.JSON"}},
		{"WithCodecFor", bus.WithCodecFor("a..b", codec.JSON), []string{`"a..b"`, "empty token"}},
		{"WithCompression", bus.WithCompression(bus.Compression{Encoding: "br"}), []string{`"br"`, "codec.Zstd"}},
		{"WithCompression", bus.WithCompression(bus.Compression{Encoding: "ZSTD"}), []string{`"ZSTD"`}},
		{"WithCompression", bus.WithCompression(bus.Compression{MinSize: -1}), []string{"-1", "negative"}},
		{"WithCompression", bus.WithCompression(bus.Compression{MaxDecoded: -1}), []string{"-1", "negative"}},
		{"WithCompression", bus.WithCompression(bus.Compression{Encoding: codec.Zstd, MaxDecoded: 1}), []string{"MaxDecoded:1}", "at least MinSize, 1024"}},
		{"WithCompression", bus.WithCompression(bus.Compression{Encoding: codec.S2, MinSize: 100, MaxDecoded: 99}), []string{"at least MinSize, 100"}},
		{"WithMiddleware", bus.WithMiddleware(nil), []string{"nil", "leave it out"}},
		{"WithTimeout", bus.WithTimeout(0), []string{"0s", "more than zero"}},
		{"WithTimeout", bus.WithTimeout(-time.Second), []string{"-1s"}},
		{"WithDrainTimeout", bus.WithDrainTimeout(0), []string{"0s", "more than zero"}},
		{"WithAsyncBuffer", bus.WithAsyncBuffer(bus.AsyncBuffer{Size: -1}), []string{"-1", "negative"}},
		{"WithAsyncBuffer", bus.WithAsyncBuffer(bus.AsyncBuffer{Size: 1<<20 + 1}), []string{"1048577", "at most 1048576"}},
		{"WithHealthThresholds", bus.WithHealthThresholds(health.Thresholds{SlowRTT: -1}), []string{"negative"}},
		{"WithHealthThresholds", bus.WithHealthThresholds(health.Thresholds{PendingRatio: 1.1}), []string{"1.1", "between 0 and 1"}},
		{"WithHealthThresholds", bus.WithHealthThresholds(health.Thresholds{ErrorRatio: -0.1}), []string{"-0.1"}},
		{"WithURL", bus.WithURL("http://host"), []string{`"http"`, "nats, tls, ws or wss"}},
		{"WithURL", bus.WithURL("nats://"), []string{"nats://host:4222"}},
		{"WithURL", bus.WithURL("nats://a,,nats://b"), []string{"is empty"}},
		{"WithURL", bus.WithURL("nats://host:port"), []string{"not a URL"}},
		{"WithURL", bus.WithURL("%"), []string{"not a URL"}},
		{"WithListen", bus.WithListen("4222"), []string{`"4222"`, "host:port"}},
		{"WithListen", bus.WithListen("127.0.0.1:x"), []string{`"x"`, "65535"}},
		{"WithListen", bus.WithListen("127.0.0.1:65536"), []string{"65536"}},
		{"WithListen", bus.WithListen("127.0.0.1:-1"), []string{"-1"}},
		{"WithSync", bus.WithSync(bus.SyncEvery(0)), []string{"100ms", "SyncAlways"}},
		{"WithSync", bus.WithSync(bus.SyncEvery(-time.Second)), []string{"-1s"}},
		{"WithMaxMemory", bus.WithMaxMemory(0), []string{"0", "more than zero"}},
		{"WithMaxMemory", bus.WithMaxMemory(1), []string{"WithMaxMemory(1)", "bytes", "at least 16384"}},
		{"WithMaxMemory", bus.WithMaxMemory(16<<10 - 1), []string{"at least 16384"}},
		{"WithMaxStore", bus.WithMaxStore(-1), []string{"-1"}},
		{"WithMaxStore", bus.WithMaxStore(512), []string{"WithMaxStore(512)", "at least 16384"}},
		{"WithMaxStore", bus.WithMaxStore(1 << 30), []string{"WithMaxStore(1073741824)", "in memory", "add WithStoreDir"}},
		{"WithSync", bus.WithSync(bus.SyncAlways), []string{"WithSync(always)", "in memory", "add WithStoreDir"}},
		{"WithSync", bus.WithSync(bus.SyncEvery(time.Second)), []string{"WithSync(1s)", "add WithStoreDir"}},
		{"WithMaxPayload", bus.WithMaxPayload(0), []string{"16384", "8388608"}},
		{"WithMaxPayload", bus.WithMaxPayload(1 << 30), []string{"8388608"}},
		{"WithServerOptions", bus.WithServerOptions(nil), []string{"nil", "function"}},
		{"WithTLS", bus.WithTLS(nil), []string{"nil"}},
		{"WithUser", bus.WithUser("", "p4ss"), []string{`""`}},
		{"WithToken", bus.WithToken(""), []string{`""`}},
		{"WithCredentials", bus.WithCredentials("/no/such/file"), []string{"/no/such/file"}},
		{"WithNKey", bus.WithNKey("/no/such/file"), []string{"/no/such/file"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b, err := bus.New(tc.option)
			if b != nil {
				_ = b.Close()
				t.Fatal("the bus was started")
			}
			e := asError[*bus.OptionError](t, err, tc.text...)
			if e.Option != tc.name || strings.ContainsAny(err.Error(), "\r") || strings.Contains(err.Error(), "p4ss") {
				t.Errorf("the error is about %s: %q", e.Option, err)
			}
			if _, started := errors.AsType[*bus.StartError](err); started {
				t.Errorf("it was found when the server ran already: %v", err)
			}
		})
	}
}

// All bad options are told at once, each as a typed error of its own.
func TestBadOptionsAreToldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := bus.New(nil, bus.WithName("a b"), bus.WithTimeout(-1), bus.WithMaxPayload(1), bus.WithCodec(namedCodec{"x"}), bus.WithURL("http://x"))
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("got %T: %v", err, err)
	}
	var names []string
	for _, e := range joined.Unwrap() {
		names = append(names, asError[*bus.OptionError](t, e).Option)
	}
	if got := strings.Join(names, " "); len(names) != 6 {
		t.Errorf("got the errors of %s", got)
	}
	_, err = bus.Connect(t.Context(), "", bus.WithName(""), bus.WithTimeout(0))
	hasText(t, err, "WithName", "WithTimeout", "Connect", "nats://host:4222")
	asError[*bus.OptionError](t, err)
}

// So it is for the calls of a bus.
func TestBadOptionsOfCallsAreToldAtOnce(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	ctx, header, id := t.Context(), bus.WithHeader("Content-Type", "x"), bus.MsgID("")
	for name, tc := range map[string]struct {
		err  error
		want string // the options, in their order
	}{
		"Subscribe": {second(bus.Subscribe(b, "a", ignore[int], bus.Concurrency(0), nil, bus.Queue(""), bus.As(nil))), "Concurrency, option 2, Queue, As"},
		"Respond":   {second(bus.Respond(b, "a", double, bus.HandlerTimeout(0), nil, bus.PendingLimits(0, 0))), "HandlerTimeout, option 2, PendingLimits"},
		"Consume": {second(bus.Consume(ctx, st, "d", "s", ignore[int], bus.Concurrency(0), nil, bus.AckWait(0), bus.StartAtSequence(0), bus.BatchSize(2))),
			"Concurrency, option 2, AckWait, StartAtSequence, Consume"},
		"Publish":      {bus.Publish(ctx, b, "a", 1, header, nil, id), "WithHeader, option 2, MsgID"},
		"PublishBatch": {bus.PublishBatch(ctx, b, "a", []int{1}, header, nil, id), "WithHeader, option 2, MsgID"},
		"PublishAsync": {bus.PublishAsync(ctx, b, "a", 1, header, nil, id), "WithHeader, option 2, MsgID"},
		"Request":      {second(bus.Request[int](ctx, b, "a", 1, header, nil, bus.As(nil))), "WithHeader, option 2, As"},
		"PublishTo":    {second(bus.PublishTo(ctx, st, "s", 1, header, nil, id, bus.TTL(1))), "WithHeader, option 2, MsgID, TTL"},
	} {
		joined, ok := tc.err.(interface{ Unwrap() []error })
		if !ok {
			t.Errorf("%s: got %T: %v", name, tc.err, tc.err)
			continue
		}
		var names []string
		for _, e := range joined.Unwrap() {
			names = append(names, asError[*bus.OptionError](t, e).Option)
		}
		if got := strings.Join(names, ", "); got != tc.want {
			t.Errorf("%s: got the errors of %s, want %s", name, got, tc.want)
		}
	}
}

// What is wrong with the other arguments is told with the options.
func TestBadArgumentsOfCallsAreToldAtOnce(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	ctx := t.Context()
	keyed := []bus.ConsumeOption{bus.KeyByToken(3), bus.Concurrency(0)}
	for name, tc := range map[string]struct {
		err  error
		want []string
	}{
		"Consume": {second(bus.Consume(ctx, st, "a b", "s.*", ignore[int], keyed...)), []string{`"a b"`, "KeyByToken", "Concurrency"}},
		"a pattern of Consume": {second(bus.Consume(ctx, st, "a b", "s..a", ignore[int], bus.AfterDeadLetter(bus.KeyFollows))),
			[]string{`"a b"`, `"s..a"`, "AfterDeadLetter"}},
		"Subscribe": {second(bus.Subscribe(b, "s..a", ignore[int], bus.Concurrency(0))), []string{`"s..a"`, "Concurrency"}},
		"Respond":   {second(bus.Respond(b, "s..a", double, bus.HandlerTimeout(0))), []string{`"s..a"`, "HandlerTimeout"}},
		"Stream":    {second(b.Stream(ctx, bus.StreamConfig{Name: "a.b"}, nil)), []string{"option 1", "StreamConfig.Name"}},
		"Plan":      {second(st.Plan(ctx, bus.StreamConfig{Name: "T", MaxAge: 1}, nil)), []string{"option 1", "StreamConfig.Name", "MaxAge"}},
		"Replay": {func() (err error) {
			for _, err = range bus.Replay[int](ctx, st, "s..a", nil) {
			}
			return err
		}(), []string{"option 1", `"s..a"`}},
	} {
		if tc.err == nil {
			t.Errorf("%s worked", name)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(tc.err.Error(), want) {
				t.Errorf("%s: %v, want %s", name, tc.err, want)
			}
		}
	}
}

// The options of a subscription are checked too.
func TestBadHandlerOptions(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for _, tc := range []struct {
		name   string
		option bus.SubscribeOption
		text   []string
	}{
		{"Concurrency", bus.Concurrency(0), []string{"0", "between 1 and 65536"}},
		{"Concurrency", bus.Concurrency(-1), []string{"-1"}},
		{"Concurrency", bus.Concurrency(1 << 17), []string{"131072"}},
		{"Use", bus.Use(nil), []string{"nil"}},
		{"HandlerTimeout", bus.HandlerTimeout(0), []string{"0s"}},
		{"HandlerTimeout", bus.HandlerTimeout(-1), []string{"-1ns"}},
		{"Queue", bus.Queue(""), []string{`""`, "empty"}},
		{"Queue", bus.Queue("a b"), []string{`"a b"`, "blank"}},
		{"Queue", bus.Queue("a.*"), []string{`"a.*"`, "wildcard"}},
		{"Queue", bus.Queue("a\r\nSUB > 1"), []string{"U+000D"}},
		{"PendingLimits", bus.PendingLimits(0, 1), []string{"0, 1", "-1"}},
		{"PendingLimits", bus.PendingLimits(1, 0), []string{"1, 0"}},
		{"PendingLimits", bus.PendingLimits(-2, 1), []string{"-2"}},
	} {
		_, err := bus.Subscribe(b, "a", ignore[int], bus.Concurrency(2), tc.option)
		if e := asError[*bus.OptionError](t, err, tc.text...); e.Option != tc.name || strings.Contains(err.Error(), "\r") {
			t.Errorf("%s: got %+v", tc.name, e)
		}
		o, ok := tc.option.(bus.RespondOption)
		if !ok {
			t.Fatalf("%s is not for Respond", tc.name)
		}
		_, err = bus.Respond(b, "a", double, o)
		asError[*bus.OptionError](t, err, tc.text...)
	}
	if n := len(b.Stats().Subscriptions); n != 0 {
		t.Errorf("%d subscriptions were made", n)
	}
}

// Arguments that no call can work with.
func TestBadArguments(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	must(t, err)
	sub, err := bus.Subscribe(b, "a", ignore[int])
	must(t, err)
	ctx := t.Context()
	var none context.Context
	var noBus *bus.Bus
	var noStream *bus.Stream
	for name, tc := range map[string]struct {
		err  error
		text string
	}{
		"Subscribe, handler":      {second(bus.Subscribe[int](b, "a", nil)), "handler is nil"},
		"Respond, responder":      {second(bus.Respond[int, int](b, "a", nil)), "responder is nil"},
		"Consume, handler":        {second(bus.Consume[int](ctx, st, "c", "s", nil)), "handler is nil"},
		"Publish, bus":            {bus.Publish(ctx, noBus, "a", 1), "bus is nil; did New"},
		"Publish, empty bus":      {bus.Publish(ctx, new(bus.Bus), "a", 1), "bus is empty"},
		"PublishBatch, bus":       {bus.PublishBatch(ctx, noBus, "a", []int{1}), "bus is nil"},
		"PublishAsync, bus":       {bus.PublishAsync(ctx, noBus, "a", 1), "bus is nil"},
		"Subscribe, bus":          {second(bus.Subscribe(noBus, "a", ignore[int])), "bus is nil"},
		"Request, bus":            {second(bus.Request[int](ctx, noBus, "a", 1)), "bus is nil"},
		"Respond, bus":            {second(bus.Respond(noBus, "a", double)), "bus is nil"},
		"Stream, bus":             {second(noBus.Stream(ctx, bus.StreamConfig{Name: "S"})), "bus is nil"},
		"LookupStream, bus":       {second(noBus.LookupStream(ctx, "S")), "bus is nil"},
		"Flush, bus":              {noBus.Flush(ctx), "bus is nil"},
		"PublishTo, stream":       {second(bus.PublishTo(ctx, noStream, "s", 1)), "stream is nil; did Stream"},
		"Consume, stream":         {second(bus.Consume(ctx, noStream, "c", "s", ignore[int])), "stream is nil"},
		"Publish, ctx":            {bus.Publish(none, b, "a", 1), "ctx is nil; use context.Background()"},
		"PublishBatch, ctx":       {bus.PublishBatch(none, b, "a", []int{1}), "ctx is nil"},
		"empty PublishBatch, ctx": {bus.PublishBatch(none, b, "a", []int{}), "ctx is nil"},
		"PublishAsync, ctx":       {bus.PublishAsync(none, b, "a", 1), "ctx is nil"},
		"Request, ctx":            {second(bus.Request[int](none, b, "a", 1)), "ctx is nil"},
		"PublishTo, ctx":          {second(bus.PublishTo(none, st, "s", 1)), "ctx is nil"},
		"Consume, ctx":            {second(bus.Consume(none, st, "c", "s", ignore[int])), "ctx is nil"},
		"Stream, ctx":             {second(b.Stream(none, bus.StreamConfig{Name: "S"})), "ctx is nil"},
		"LookupStream, ctx":       {second(b.LookupStream(none, "S")), "ctx is nil"},
		"Flush, ctx":              {b.Flush(none), "ctx is nil"},
		"Shutdown, ctx":           {b.Shutdown(none), "ctx is nil"},
		"Subscription.Drain, ctx": {sub.Drain(none), "ctx is nil"},
		"Connect, ctx":            {second(bus.Connect(none, b.ClientURL())), "ctx is nil"},
	} {
		e := asError[*bus.OptionError](t, tc.err, tc.text)
		if call, _, _ := strings.Cut(name, ","); !strings.Contains(call, e.Option) {
			t.Errorf("%s: the error is about %s", name, e.Option)
		}
	}
	must(t, noBus.Close())
	if r := noBus.Health(ctx); r.Status != health.Failed {
		t.Errorf("the health of no bus is %v", r)
	}
	if r := b.Health(none); r.Status != health.Healthy {
		t.Errorf("the health is %v", r)
	}
	if err := bus.Publish(ctx, b, "a", 1); err != nil {
		t.Errorf("the bus has ended: %v", err)
	}
}

// After Close every use says that the bus is closed, and none hangs or panics.
func TestUseAfterClose(t *testing.T) {
	t.Parallel()
	b := ownBus(t, anyPort())
	ctx := t.Context()
	st, err := b.Stream(ctx, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	must(t, err)
	sub, err := bus.Subscribe(b, "a", ignore[int])
	must(t, err)
	con, err := bus.Consume(ctx, st, "c", "s", ignore[int])
	must(t, err)
	must(t, b.Close())
	var m bus.Mux
	bus.Handle(&m, "a", ignore[int])
	for name, err := range map[string]error{
		"Publish":            bus.Publish(ctx, b, "a", 1),
		"PublishBatch":       bus.PublishBatch(ctx, b, "a", []int{1}),
		"empty PublishBatch": bus.PublishBatch(ctx, b, "a", []int{}),
		"PublishAsync":       bus.PublishAsync(ctx, b, "a", 1),
		"Request":            second(bus.Request[int](ctx, b, "a", 1)),
		"Subscribe":          second(bus.Subscribe(b, "a", ignore[int])),
		"Bus.Subscribe":      second(b.Subscribe("a", &m)),
		"Respond":            second(bus.Respond(b, "a", double)),
		"Stream":             second(b.Stream(ctx, bus.StreamConfig{Name: "T"})),
		"LookupStream":       second(b.LookupStream(ctx, "S")),
		"PublishTo":          second(bus.PublishTo(ctx, st, "s", 1)),
		"Consume":            second(bus.Consume(ctx, st, "d", "s", ignore[int])),
		"Flush":              b.Flush(ctx),
	} {
		if !errors.Is(err, bus.ErrClosed) {
			t.Errorf("%s: got %v, want %v", name, err, bus.ErrClosed)
		}
	}
	must(t, b.Close())
	must(t, b.Shutdown(ctx))
	must(t, sub.Drain(ctx))
	must(t, sub.Unsubscribe())
	must(t, con.Drain(ctx))
	must(t, con.Err())
	receive(t, b.Done())
	receive(t, sub.Done())
	receive(t, con.Done())
	if r := b.Health(ctx); r.Status != health.Failed || len(r.Problems) != 1 || r.Problems[0].Reason != "the bus is closed" {
		t.Errorf("the health is %+v", r)
	}
	if s := b.Stats(); len(s.Subscriptions) != 0 || s.InFlight != 0 {
		t.Errorf("the statistics are %+v", s)
	}
	if b.Conn() == nil || !b.Conn().IsClosed() || b.JetStream() == nil {
		t.Error("the connection is open")
	}
	_ = b.ClientURL()
	if st.Name() != "S" || len(st.Subjects()) != 1 || sub.Subject() != "a" {
		t.Error("the names are gone")
	}
}

// A server that is not there, or is none, is an error soon, and never later than
// the context.
func TestConnectToNoServer(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, closed.Close())
	silentServer, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer silentServer.Close()
	babbling, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer babbling.Close()
	go func() {
		for {
			conn, err := babbling.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_ = conn.Close()
		}
	}()
	for _, tc := range []struct {
		name string
		url  string
		want error
	}{
		{"nobody listens", "nats://" + closed.Addr().String(), nil},
		{"it says nothing", "nats://" + silentServer.Addr().String(), context.DeadlineExceeded},
		{"it is no NATS server", "nats://" + babbling.Addr().String(), nil},
		{"none of two", "nats://" + closed.Addr().String() + ",nats://" + babbling.Addr().String(), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			for name, connect := range map[string]func() (*bus.Bus, error){
				"Connect": func() (*bus.Bus, error) {
					return bus.Connect(ctx, tc.url, bus.WithLogger(silent()), bus.WithTimeout(time.Second))
				},
				"WithURL": func() (*bus.Bus, error) {
					return bus.New(bus.WithURL(tc.url), bus.WithLogger(silent()), bus.WithTimeout(300*time.Millisecond))
				},
			} {
				began := time.Now()
				b, err := connect()
				if b != nil {
					t.Fatalf("%s: got a bus", name)
				}
				c := asError[*bus.ConnectError](t, err, tc.url)
				if c.URL != tc.url || c.Err == nil {
					t.Errorf("%s: got %+v", name, c)
				}
				if tc.want != nil && !errors.Is(err, tc.want) {
					t.Errorf("%s: got %v, want %v", name, err, tc.want)
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("%s took %v", name, took)
				}
			}
		})
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = bus.Connect(cancelled, "nats://"+silentServer.Addr().String(), bus.WithLogger(silent()), bus.WithTimeout(time.Second))
	asError[*bus.ConnectError](t, err)
	isError(t, err, context.Canceled)
}

// Passwords and tokens show up nowhere: not in errors, logs, events or reports.
func TestSecretsAreKept(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	byPassword := bustest.New(t, anyPort(), bus.WithServerOptions(func(o *server.Options) {
		o.Username, o.Password = "ann", "x@"+secret
	}))
	byToken := bustest.New(t, anyPort(), bus.WithServerOptions(func(o *server.Options) { o.Authorization = secret }))
	host := func(b *bus.Bus) string { return strings.TrimPrefix(b.ClientURL(), "nats://") }
	for _, tc := range []struct {
		name string
		url  string
		opts []bus.ConnectOption
		ok   bool
	}{
		{"password in the URL", "nats://ann:x%40" + secret + "@" + host(byPassword), nil, true},
		{"password in the URL, not escaped", "nats://ann:x@" + secret + "@" + host(byPassword), nil, true},
		{"password as an option", "nats://" + host(byPassword), []bus.ConnectOption{bus.WithUser("ann", "x@"+secret)}, true},
		{"token in the URL", "nats://" + secret + "@" + host(byToken), nil, true},
		{"token in the URL, without a scheme", secret + "@" + host(byToken), nil, true},
		{"token as an option", "nats://" + host(byToken), []bus.ConnectOption{bus.WithToken(secret)}, true},
		{"wrong password", "nats://bob:" + secret + "2@" + host(byPassword), nil, false},
		{"wrong token", "nats://" + secret + "2@" + host(byToken), nil, false},
		{"nobody listens", "nats://ann:" + secret + "@127.0.0.1:1", nil, false},
		{"bad port", "nats://ann:" + secret + "@127.0.0.1:port", nil, false},
		{"bad scheme", "http://ann:" + secret + "@127.0.0.1", nil, false},
		{"bad escape", "nats://ann:%zz" + secret + "@127.0.0.1", nil, false},
		{"slash in the password", "nats://ann:a/" + secret + "@127.0.0.1", nil, false},
		{"scheme in the password", "nats://ann:a://" + secret + "@127.0.0.1", nil, false},
		{"at in the password", "nats://ann:a@" + secret + "@127.0.0.1:1", nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var log lockedBuffer
			record, events := recordEvents()
			logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &log})
			b, err := bus.Connect(t.Context(), tc.url, append(tc.opts, record, bus.WithLogger(logger), bus.WithTimeout(2*time.Second))...)
			var said []string
			if err != nil {
				said = append(said, err.Error(), fmt.Sprintf("%+v", err))
			}
			if (err == nil) != tc.ok {
				t.Errorf("connecting: %v", err)
			}
			if b != nil {
				must(t, b.Conn().ForceReconnect())
				nextEvent(t, events, event.Disconnected)
				e := nextEvent(t, events, event.Reconnected)
				said = append(said, fmt.Sprint(e), fmt.Sprintf("%+v", b.Health(t.Context())), b.ClientURL())
				must(t, b.Close())
			}
			_, err = bus.New(bus.WithURL(tc.url), bus.WithListen("127.0.0.1:0"), bus.WithTimeout(-1))
			said = append(said, err.Error(), log.String())
			for _, text := range said {
				if strings.Contains(text, secret) {
					t.Errorf("the secret shows up in %q", text)
				}
			}
		})
	}
}

// Options of Connect that are for the embedded server do not compile; of those
// that FromEnv brings the later one wins.
func TestTheLaterOptionWins(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithName("first"), bus.WithName("second"), bus.WithStoreDir(filepath.Join(t.TempDir(), "x")), bus.WithStoreDir(""))
	if name := b.Conn().Opts.Name; name != "second" {
		t.Errorf("the name is %q", name)
	}
}
