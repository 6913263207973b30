package bus_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
)

// The subjects of these tests are their own: At teaches the whole process what
// the patterns are.
const (
	obsPub   bus.Subject[int]       = "obs.pub.*"
	obsNext  bus.Subject[int]       = "obs.next.*"
	obsStore bus.Subject[int]       = "obs.store.*"
	obsAsk   bus.Endpoint[int, int] = "obs.ask.*"

	obsNobody bus.Endpoint[int, int] = "obs.nobody.*" // answers
)

// observed returns options that have r record spans and metrics.
func observed(r *oteltest.Recorder) []bus.Option {
	return []bus.Option{bus.WithName("obs"), bus.WithLogger(silent()), traced(r), measured(r)}
}

func traced(r *oteltest.Recorder) bus.ConnectOption {
	return bus.WithTracerProvider(r.TracerProvider())
}

func measured(r *oteltest.Recorder) bus.ConnectOption {
	return bus.WithMeterProvider(r.MeterProvider())
}

// userSpan returns ctx in a span of the program's own.
func userSpan(ctx context.Context, r *oteltest.Recorder, name string) (context.Context, trace.Span) {
	return r.TracerProvider().Tracer("program").Start(ctx, name)
}

// ownSubject is a subject of the library; its kind is enough for these tests.
var ownSubject = regexp.MustCompile(`(\$OMNIBUS\.\w+)\S*`)

// tree draws finished spans: each below its parent, in the order in which they
// began, with their kind and type of operation. "+" marks a link to the parent.
func tree(spans ...oteltest.Span) string {
	slices.SortFunc(spans, func(a, b oteltest.Span) int { // the recorder numbers them
		return cmp.Compare(a.SpanContext.SpanID().String(), b.SpanContext.SpanID().String())
	})
	var b strings.Builder
	var draw func(s oteltest.Span, depth string)
	draw = func(s oteltest.Span, depth string) {
		what := strings.TrimSpace(fmt.Sprint(s.Kind, " ", s.Attr("messaging.operation.type")))
		fmt.Fprintf(&b, "%s%s (%s)\n", depth, ownSubject.ReplaceAllString(s.Name, "$1"), what)
		for _, child := range spans {
			if child.ChildOf(s) {
				next := strings.Repeat("\t", strings.Count(depth, "\t")+1)
				if child.LinksTo(s) {
					next += "+ "
				}
				draw(child, next)
			}
		}
	}
	for _, s := range spans {
		if !slices.ContainsFunc(spans, s.ChildOf) {
			draw(s, "")
		}
	}
	return b.String()
}

// sameTree compares the tree of spans with want, whose first line is empty.
func sameTree(t testing.TB, want string, rs ...*oteltest.Recorder) {
	t.Helper()
	var spans []oteltest.Span
	for _, r := range rs {
		spans = append(spans, r.Spans()...)
		if n := r.Open(); n != 0 {
			t.Errorf("%d spans have not ended", n)
		}
	}
	lines := strings.Split(strings.Trim(want, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "\t\t\t")
	}
	if got := strings.TrimSpace(tree(spans...)); got != strings.TrimSpace(strings.Join(lines, "\n")) {
		t.Errorf("the spans are\n%s\nwant\n%s", got, strings.Join(lines, "\n"))
	}
}

// traceCases are ways of sending, each with the spans that it makes.
var traceCases = []struct {
	name string
	run  func(ctx context.Context, t *testing.T, b *bus.Bus)
	want string
}{
	{"Publish", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		must(t, second(bus.Subscribe(b, obsPub, ignore[int])))
		must(t, bus.Publish(ctx, b, obsPub.At("x"), 1))
	}, `
			root (internal)
				publish obs.pub.* (producer send)
					+ process obs.pub.* (consumer process)
			`},
	{"a handler that publishes", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		must(t, second(bus.Subscribe(b, obsPub, func(ctx context.Context, m *bus.Msg[int]) error {
			return bus.Publish(ctx, b, obsNext.At("y"), 2)
		})))
		must(t, second(bus.Subscribe(b, obsNext, ignore[int])))
		must(t, bus.Publish(ctx, b, obsPub.At("x"), 1))
	}, `
			root (internal)
				publish obs.pub.* (producer send)
					+ process obs.pub.* (consumer process)
						publish obs.next.* (producer send)
							+ process obs.next.* (consumer process)
			`},
	{"several subscribers", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		must(t, second(bus.Subscribe(b, obsPub, ignore[int], bus.Concurrency(4))))
		must(t, bus.Publish(ctx, b, obsPub.At("x"), 1))
		synctest.Wait()
		must(t, second(bus.Subscribe(b, "obs.>", ignore[int])))
		must(t, bus.Publish(ctx, b, obsNext.At("y"), 1))
	}, `
			root (internal)
				publish obs.pub.* (producer send)
					+ process obs.pub.* (consumer process)
				publish obs.next.* (producer send)
					+ process obs.> (consumer process)
			`},
	{"PublishBatch", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		must(t, bus.PublishBatch(ctx, b, obsPub.At("x"), []int{1, 2}))
	}, `
			root (internal)
				publish obs.pub.* (producer send)
				publish obs.pub.* (producer send)
			`},
	{"PublishAsync", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		must(t, second(bus.Subscribe(b, obsPub, ignore[int])))
		ctx, cancel := context.WithCancel(ctx)
		must(t, bus.PublishAsync(ctx, b, obsPub.At("x"), 1))
		cancel() // the message is on its way all the same
	}, `
			root (internal)
				publish obs.pub.* (producer send)
					+ process obs.pub.* (consumer process)
			`},
	{"Request", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		must(t, second(bus.Respond(b, obsAsk, func(ctx context.Context, m *bus.Msg[int]) (int, error) {
			return m.Data, bus.Publish(ctx, b, obsNext.At("y"), 2)
		})))
		must(t, second(bus.Request(ctx, b, obsAsk.At("x"), 1)))
	}, `
			root (internal)
				request obs.ask.* (client send)
					+ process obs.ask.* (consumer process)
						publish obs.next.* (producer send)
			`},
	{"PublishTo", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		consume(t, st, "d", obsStore, ignore[int])
		must(t, second(bus.PublishTo(ctx, st, obsStore.At("x"), 1)))
	}, `
			root (internal)
				store obs.store.* (producer send)
					+ process obs.store.* (consumer process)
						ack obs.store.* (client settle)
			`},
	{"a message that is tried again", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		consume(t, st, "d", obsStore, func(_ context.Context, m *bus.Msg[int]) error {
			if m.Attempt < 3 {
				return errNo
			}
			return nil
		})
		must(t, second(bus.PublishTo(ctx, st, obsStore.At("x"), 1)))
	}, `
			root (internal)
				store obs.store.* (producer send)
					+ process obs.store.* (consumer process)
					+ process obs.store.* (consumer process)
					+ process obs.store.* (consumer process)
						ack obs.store.* (client settle)
			`},
	{"a message that is given up", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		consume(t, st, "d", obsStore, giveUp)
		must(t, second(bus.PublishTo(ctx, st, obsStore.At("x"), 1)))
	}, `
			root (internal)
				store obs.store.* (producer send)
					+ process obs.store.* (consumer process)
						store $OMNIBUS.dead (producer send)
						term obs.store.* (client settle)
			`},
	{"a message that is put aside for long", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		consume(t, st, "d", obsStore, func(_ context.Context, m *bus.Msg[int]) error {
			if m.Attempt == 1 {
				return bus.RetryAfter(time.Hour, errNo)
			}
			return nil
		})
		must(t, second(bus.PublishTo(ctx, st, obsStore.At("x"), 1)))
		time.Sleep(61 * time.Minute)
	}, `
			root (internal)
				store obs.store.* (producer send)
					+ process obs.store.* (consumer process)
						store $OMNIBUS.later (producer send)
						ack obs.store.* (client settle)
					+ process obs.store.* (consumer process)
						ack obs.store.* (client settle)
			`},
	{"a message that is given back at the end", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		con := consume(t, st, "d", obsStore, func(ctx context.Context, m *bus.Msg[int]) error {
			time.Sleep(time.Second)
			return giveUp(ctx, m)
		})
		refuseAll(t, b, "S-dead") // it cannot be kept as a dead letter
		must(t, second(bus.PublishTo(ctx, st, obsStore.At("x"), 1)))
		synctest.Wait()
		must(t, con.Drain(ctx))
	}, `
			root (internal)
				store obs.store.* (producer send)
					+ process obs.store.* (consumer process)
						store $OMNIBUS.dead (producer send)
						nak obs.store.* (client settle)
			`},
	{"a Mux", func(ctx context.Context, t *testing.T, b *bus.Bus) {
		var m bus.Mux
		bus.Handle(&m, "obs.pub.x", ignore[int])
		must(t, second(b.Subscribe("obs.pub.>", &m)))
		must(t, bus.Publish(ctx, b, obsPub.At("x"), 1))
	}, `
			root (internal)
				publish obs.pub.* (producer send)
					+ process obs.pub.> (consumer process)
			`},
}

// All spans of a message lie in one trace, from the program's span over sending to
// handling and settling.
func TestTraces(t *testing.T) {
	t.Parallel()
	for _, tc := range traceCases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := oteltest.New()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				ctx, root := userSpan(t.Context(), r, "root")
				tc.run(ctx, t, b)
				time.Sleep(time.Minute)
				root.End()
			}, observed(r)...)
			sameTree(t, tc.want, r)
		})
	}
}

// Without a span of the program each message begins a trace, and two messages are
// two traces.
func TestTracesAreApart(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		must(t, second(bus.Subscribe(b, obsPub, ignore[int])))
		must(t, bus.PublishBatch(t.Context(), b, obsPub.At("x"), []int{1, 2}))
		synctest.Wait()
	}, observed(r)...)
	sameTree(t, `
			publish obs.pub.* (producer send)
				+ process obs.pub.* (consumer process)
			publish obs.pub.* (producer send)
				+ process obs.pub.* (consumer process)
			`, r)
	traces := map[trace.TraceID]int{}
	for _, s := range r.Spans() {
		traces[s.SpanContext.TraceID()]++
	}
	if len(traces) != 2 {
		t.Errorf("the spans belong to %d traces, want 2", len(traces))
	}
}

// A trace goes on in another process.
func TestTracesAcrossBuses(t *testing.T) {
	t.Parallel()
	here, there := oteltest.New(), oteltest.New()
	b := bustest.New(t, append(observed(here), anyPort())...)
	other := connectTo(t, b, traced(there))
	st := declare(t, other, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
	consume(t, st, "d", obsStore, ignore[int])
	must(t, second(bus.Subscribe(other, obsPub, ignore[int])))
	must(t, second(bus.Respond(other, obsAsk, double)))
	ours, err := b.LookupStream(t.Context(), "S")
	must(t, err)

	ctx, root := userSpan(t.Context(), here, "root")
	ended := func(n int) {
		t.Helper()
		eventually(t, "the other bus is done", func() bool { return len(there.Spans()) == n && there.Open() == 0 })
	}
	must(t, bus.Publish(ctx, b, obsPub.At("x"), 1))
	ended(1)
	must(t, second(bus.Request(ctx, b, obsAsk.At("x"), 1)))
	ended(2)
	must(t, second(bus.PublishTo(ctx, ours, obsStore.At("x"), 1)))
	ended(4)
	root.End()
	sameTree(t, `
			root (internal)
				publish obs.pub.* (producer send)
					+ process obs.pub.* (consumer process)
				request obs.ask.* (client send)
					+ process obs.ask.* (consumer process)
				store obs.store.* (producer send)
					+ process obs.store.* (consumer process)
						ack obs.store.* (client settle)
			`, here, there)
	for _, s := range here.Spans() {
		if strings.HasPrefix(s.Name, "process") || strings.HasPrefix(s.Name, "ack") {
			t.Errorf("%s was recorded where it was sent", s.Name)
		}
	}
}

const (
	foreignTrace  = "0af7651916cd43dd8448eb211c80319c"
	foreignSpan   = "b7ad6b7169203331"
	foreignParent = "00-" + foreignTrace + "-" + foreignSpan + "-01"
)

// A plain client takes part in traces by the header of the W3C.
func TestTracesOfPlainClients(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		header nats.Header
		member bool // of the foreign trace
	}{
		{"traceparent", nats.Header{"traceparent": {foreignParent}}, true},
		{"as HTTP writes it", nats.Header{"Traceparent": {foreignParent}}, true},
		{"with more", nats.Header{"traceparent": {foreignParent}, "tracestate": {"v=1"}, "baggage": {"tenant=eu"}}, true},
		{"without", nil, false},
		{"with another header", nats.Header{"K": {"v"}}, false},
		{"nonsense", nats.Header{"traceparent": {"nonsense"}}, false},
		{"no trace", nats.Header{"traceparent": {"00-00000000000000000000000000000000-0000000000000000-01"}}, false},
		{"none at all", nats.Header{"traceparent": nil}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := oteltest.New()
			b := bustest.New(t, append(observed(r), anyPort())...)
			tenants := make(chan string, 1)
			_, err := bus.Subscribe(b, obsPub, func(ctx context.Context, m *bus.Msg[int]) error {
				tenants <- baggage.FromContext(ctx).Member("tenant").Value()
				return nil
			})
			must(t, err)
			must(t, rawClient(t, b).PublishMsg(&nats.Msg{Subject: "obs.pub.x", Header: tc.header, Data: []byte("1")}))
			tenant := receive(t, tenants)
			eventually(t, "the span has ended", func() bool { return len(r.Spans()) == 1 })
			s := r.Spans()[0]
			if got := s.SpanContext.TraceID().String() == foreignTrace && s.Parent.SpanID().String() == foreignSpan; got != tc.member {
				t.Errorf("it belongs to the client's trace: %t, want %t", got, tc.member)
			}
			if !tc.member && (s.Parent.IsValid() || len(s.Links) > 0) {
				t.Errorf("the span's parent is %v, its links are %v", s.Parent, s.Links)
			}
			if want := strings.TrimPrefix(strings.Join(tc.header["baggage"], ""), "tenant="); tenant != want {
				t.Errorf("the baggage has %q, want %q", tenant, want)
			}
		})
	}
}

// What a plain client gets names the span that sent it, as do replies.
func TestPlainClientsGetTheTrace(t *testing.T) {
	t.Parallel()
	for _, sampled := range []bool{true, false} {
		t.Run(fmt.Sprint("sampled ", sampled), func(t *testing.T) {
			t.Parallel()
			r := oteltest.New()
			if !sampled {
				r.SampleNone()
			}
			b := bustest.New(t, append(observed(r), anyPort())...)
			nc := rawClient(t, b)
			got := make(chan *nats.Msg, 1)
			must(t, second(nc.Subscribe("obs.pub.*", func(m *nats.Msg) { got <- m })))
			flushRaw(t, nc)
			bag, err := baggage.Parse("tenant=eu")
			must(t, err)
			must(t, bus.Publish(baggage.ContextWithBaggage(t.Context(), bag), b, obsPub.At("x"), 1))
			m := receive(t, got)
			parts := strings.Split(m.Header.Get("traceparent"), "-")
			if len(parts) != 4 || parts[0] != "00" || (parts[3] == "01") != sampled || m.Header.Get("baggage") != "tenant=eu" || len(m.Header) != 2 {
				t.Fatalf("the header is %v", m.Header)
			}
			if !sampled {
				if len(r.Spans()) != 0 {
					t.Errorf("spans were recorded: %s", tree(r.Spans()...))
				}
				return
			}
			s, ok := r.Span("publish obs.pub.*")
			if !ok || s.SpanContext.TraceID().String() != parts[1] || s.SpanContext.SpanID().String() != parts[2] {
				t.Errorf("the header is %v, the span %+v", m.Header, s.SpanContext)
			}
		})
	}
}

// Without a tracer nothing is written and nothing read, whatever the context
// holds; metrics alone change no message.
func TestNoTraceWithoutATracer(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.Option{
		"nothing":      nil,
		"metrics":      {measured(oteltest.New())},
		"a propagator": {bus.WithPropagator(propagation.TraceContext{})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := oteltest.New() // of the program, not of the bus
			b := bustest.New(t, append(opts, anyPort())...)
			nc := rawClient(t, b)
			wire := make(chan *nats.Msg, 10)
			must(t, second(nc.Subscribe("obs.>", func(m *nats.Msg) { wire <- m })))
			flushRaw(t, nc)
			spans := make(chan bool, 10)
			look := func(ctx context.Context, m *bus.Msg[int]) error {
				spans <- trace.SpanContextFromContext(ctx).IsValid()
				return nil
			}
			must(t, second(bus.Subscribe(b, obsPub, look)))
			must(t, second(bus.Respond(b, obsAsk, func(ctx context.Context, m *bus.Msg[int]) (int, error) { return 0, look(ctx, m) })))
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
			consume(t, st, "d", obsStore, look)
			ctx, span := userSpan(t.Context(), r, "root")
			defer span.End()
			must(t, bus.Publish(ctx, b, obsPub.At("x"), 1))
			must(t, second(bus.Request(ctx, b, obsAsk.At("x"), 1)))
			must(t, second(bus.PublishTo(ctx, st, obsStore.At("x"), 1)))
			for range 3 {
				if receive(t, spans) {
					t.Error("a handler's context has a span")
				}
			}
			for range 3 {
				if m := receive(t, wire); len(m.Header) != 0 {
					t.Errorf("%s has the header %v", m.Subject, m.Header)
				}
			}
			if reply := rawRequest(t, nc, "obs.ask.x", "", "1"); len(reply.Header) != 0 {
				t.Errorf("the reply has the header %v", reply.Header)
			}
			receive(t, spans)
			must(t, rawClient(t, b).PublishMsg(&nats.Msg{Subject: "obs.pub.x", Header: nats.Header{"traceparent": {foreignParent}}, Data: []byte("1")}))
			if receive(t, spans) {
				t.Error("a handler's context has the client's span")
			}
		})
	}
}

// hexPropagator writes the trace in a way of its own.
type hexPropagator struct{}

func (hexPropagator) Fields() []string { return []string{"x-trace"} }

func (hexPropagator) Inject(ctx context.Context, c propagation.TextMapCarrier) {
	sc := trace.SpanContextFromContext(ctx)
	c.Set("x-trace", sc.TraceID().String()+"/"+sc.SpanID().String())
}

func (hexPropagator) Extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	a, b, _ := strings.Cut(c.Get("x-trace"), "/")
	traceID, err1 := trace.TraceIDFromHex(a)
	spanID, err2 := trace.SpanIDFromHex(b)
	if errors.Join(err1, err2) != nil {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, Remote: true}))
}

func TestWithPropagator(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	headers := make(chan bus.Header, 1)
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		must(t, second(bus.Subscribe(b, obsPub, func(_ context.Context, m *bus.Msg[int]) error { headers <- m.Header; return nil })))
		must(t, bus.Publish(t.Context(), b, obsPub.At("x"), 1))
		synctest.Wait()
	}, append(observed(r), bus.WithPropagator(hexPropagator{}))...)
	s, _ := r.Span("publish obs.pub.*")
	want := bus.Header{"x-trace": {s.SpanContext.TraceID().String() + "/" + s.SpanContext.SpanID().String()}}
	if h := receive(t, headers); fmt.Sprint(h) != fmt.Sprint(want) {
		t.Errorf("the header is %v, want %v", h, want)
	}
	sameTree(t, `
			publish obs.pub.* (producer send)
				+ process obs.pub.* (consumer process)
			`, r)
}

// The middleware and the decoding of a message lie within its span.
func TestSpanOfAHandlerCall(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	var inside []string
	noting := func(name string) bus.Middleware {
		return func(next bus.RawHandler) bus.RawHandler {
			return func(ctx context.Context, m *bus.RawMsg) error {
				_, span := userSpan(ctx, r, name)
				defer span.End()
				inside = append(inside, name)
				return next(ctx, m)
			}
		}
	}
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		must(t, second(bus.Subscribe(b, obsPub, ignore[int], bus.Use(noting("own")))))
		must(t, bus.Publish(t.Context(), b, bus.Subject[string](obsPub).At("raw"), "not a number"))
		synctest.Wait()
	}, append(observed(r), bus.WithMiddleware(noting("of the bus")))...)
	sameTree(t, `
			publish obs.pub.* (producer send)
				+ process obs.pub.* (consumer process)
					of the bus (internal)
					own (internal)
			`, r)
	if s, _ := r.Span("process obs.pub.*"); s.Status != codes.Error || !strings.Contains(s.Description, "decode") {
		t.Errorf("the message could not be decoded, and the span is %+v", s)
	}
}

// attrs writes attributes as one line.
func attrs(kvs []attribute.KeyValue) string {
	last := map[attribute.Key]string{}
	for _, kv := range kvs {
		last[kv.Key] = kv.Value.String()
	}
	var all []string
	for k, v := range last {
		all = append(all, strings.TrimPrefix(string(k), "messaging.")+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// everything has a bus do all that is observed, once or more.
func everything(t *testing.T, b *bus.Bus) {
	t.Helper()
	ctx := t.Context()
	sub, err := bus.Subscribe(b, obsPub, func(ctx context.Context, m *bus.Msg[int]) error {
		time.Sleep(2 * time.Second)
		return failOdd(ctx, m)
	}, bus.Queue("workers"))
	must(t, err)
	must(t, bus.Publish(ctx, b, obsPub.At("x"), 0, bus.MsgID("m1")))
	must(t, bus.PublishBatch(ctx, b, obsPub.At("y"), []int{1, 1}))
	must(t, bus.PublishAsync(ctx, b, obsNext.At("z"), 10))
	responder, err := bus.Respond(b, obsAsk, func(context.Context, *bus.Msg[int]) (int, error) { time.Sleep(3 * time.Second); return 0, nil })
	must(t, err)
	must(t, second(bus.Request(ctx, b, obsAsk.At("x"), 100)))
	_, err = bus.Request(ctx, b, obsNobody.At("x"), 1)
	isError(t, err, bus.ErrNoResponders)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
	con := consume(t, st, "d", obsStore, ignore[int])
	must(t, second(bus.PublishTo(ctx, st, obsStore.At("x"), 1000, bus.MsgID("m2"))))
	time.Sleep(time.Minute)
	must(t, errors.Join(sub.Drain(ctx), responder.Drain(ctx), con.Drain(ctx)))
}

// What spans say, as the semantic conventions of OpenTelemetry have it.
func TestSpanAttributes(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	bustest.Run(t, everything, observed(r)...)
	const common = "client.id=obs "
	want := []string{
		common + "consumer.group.name=d destination.name=obs.store.x destination.template=obs.store.* operation.name=ack operation.type=settle system=nats",
		common + "consumer.group.name=d destination.name=obs.store.x destination.template=obs.store.* message.body.size=4 message.id=m2 operation.name=process operation.type=process system=nats",
		common + "consumer.group.name=obs destination.name=obs.ask.x destination.template=obs.ask.* message.body.size=3 operation.name=process operation.type=process system=nats",
		common + "consumer.group.name=workers destination.name=obs.pub.x destination.template=obs.pub.* message.body.size=1 message.id=m1 operation.name=process operation.type=process system=nats",
		common + "consumer.group.name=workers destination.name=obs.pub.y destination.template=obs.pub.* error.type=_OTHER message.body.size=1 operation.name=process operation.type=process system=nats",
		common + "destination.name=obs.ask.x destination.template=obs.ask.* message.body.size=3 operation.name=request operation.type=send system=nats",
		common + "destination.name=obs.next.z destination.template=obs.next.* message.body.size=2 operation.name=publish operation.type=send system=nats",
		common + "destination.name=obs.nobody.x destination.template=obs.nobody.* error.type=_OTHER message.body.size=1 operation.name=request operation.type=send system=nats",
		common + "destination.name=obs.pub.x destination.template=obs.pub.* message.body.size=1 message.id=m1 operation.name=publish operation.type=send system=nats",
		common + "destination.name=obs.pub.y destination.template=obs.pub.* message.body.size=1 operation.name=publish operation.type=send system=nats",
		common + "destination.name=obs.store.x destination.template=obs.store.* message.body.size=4 message.id=m2 operation.name=store operation.type=send system=nats",
	}
	var got []string
	for _, s := range r.Spans() {
		got = append(got, attrs(s.Attributes))
		failed := s.Attr("error.type") != ""
		if failed != (s.Status == codes.Error) || failed != (s.Description != "") || s.Status == codes.Ok {
			t.Errorf("%s has the status %v %q and the error %q", s.Name, s.Status, s.Description, s.Attr("error.type"))
		}
		if s.AtStart < 4 {
			t.Errorf("a sampler of %s sees only %d attributes", s.Name, s.AtStart)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if got := slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("the spans are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, s := range r.Scopes() {
		if s != (oteltest.Scope{Name: "github.com/omnibus-go/bus", Version: bus.Version, SchemaURL: "https://opentelemetry.io/schemas/1.44.0"}) {
			t.Errorf("the scope is %+v", s)
		}
	}
	if len(r.Scopes()) != 2 {
		t.Errorf("the scopes are %+v, want a tracer's and a meter's", r.Scopes())
	}
}

// What metrics say: how many, how long, and of what.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	bustest.Run(t, everything, observed(r)...)
	// Count, sum, attributes of each series.
	for name, want := range map[string][]string{
		"messaging.client.operation.duration": {
			"1 0 consumer.group.name=d destination.template=obs.store.* operation.name=ack operation.type=settle system=nats",
			"1 3 destination.template=obs.ask.* operation.name=request operation.type=send system=nats",
			"1 0 destination.template=obs.next.* operation.name=publish operation.type=send system=nats",
			"1 0 destination.template=obs.nobody.* error.type=_OTHER operation.name=request operation.type=send system=nats",
			"3 0 destination.template=obs.pub.* operation.name=publish operation.type=send system=nats",
			"1 0 destination.template=obs.store.* operation.name=store operation.type=send system=nats",
		},
		"messaging.client.sent.messages": {
			"1 1 destination.template=obs.ask.* operation.name=request system=nats",
			"1 1 destination.template=obs.next.* operation.name=publish system=nats",
			"1 1 destination.template=obs.nobody.* error.type=_OTHER operation.name=request system=nats",
			"3 3 destination.template=obs.pub.* operation.name=publish system=nats",
			"1 1 destination.template=obs.store.* operation.name=store system=nats",
		},
		"messaging.process.duration": {
			"1 3 consumer.group.name=obs destination.template=obs.ask.* operation.name=process system=nats",
			"1 2 consumer.group.name=workers destination.template=obs.pub.* operation.name=process system=nats",
			"2 4 consumer.group.name=workers destination.template=obs.pub.* error.type=_OTHER operation.name=process system=nats",
			"1 0 consumer.group.name=d destination.template=obs.store.* operation.name=process system=nats",
		},
		"messaging.client.consumed.messages": {
			"1 1 consumer.group.name=obs destination.template=obs.ask.* operation.name=process system=nats",
			"1 1 consumer.group.name=workers destination.template=obs.pub.* operation.name=process system=nats",
			"2 2 consumer.group.name=workers destination.template=obs.pub.* error.type=_OTHER operation.name=process system=nats",
			"1 1 consumer.group.name=d destination.template=obs.store.* operation.name=process system=nats",
		},
		"omnibus.messages.dropped":       nil,
		"omnibus.messages.redelivered":   nil,
		"omnibus.messages.dead_lettered": nil,
		"omnibus.connection.reconnects":  nil,
	} {
		sameSeries(t, r, name, want...)
		i, ok := r.Instrument(name)
		unit := map[bool]string{true: "s", false: "{message}"}[strings.HasSuffix(name, "duration")]
		if strings.HasSuffix(name, "reconnects") {
			unit = "{reconnect}"
		}
		if !ok || i.Unit != unit || i.Description == "" {
			t.Errorf("the instrument is %+v, want the unit %s", i, unit)
		}
	}
	for _, m := range r.Measurements("messaging.process.duration") {
		if !m.SpanContext.IsValid() { // else it would have no exemplar
			t.Errorf("%+v was measured outside its span", m)
		}
	}
}

// sameSeries compares what an instrument was given with want: count, sum and
// attributes of each series.
func sameSeries(t testing.TB, r *oteltest.Recorder, name string, want ...string) {
	t.Helper()
	counts, sums := map[string]int{}, map[string]float64{}
	for _, m := range r.Measurements(name) {
		key := attrs(m.Attributes.ToSlice())
		counts[key]++
		sums[key] += m.Value
	}
	var got []string
	for key, n := range counts {
		got = append(got, fmt.Sprintf("%d %v %s", n, sums[key], key))
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("%s is\n\t%s\nwant\n\t%s", name, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// A subject that At did not make is its own pattern. In a process of its own,
// because the patterns of other tests may match.
func TestDestinationOfASubjectWithoutAt(t *testing.T) {
	t.Parallel()
	if runAsChild(t) {
		return
	}
	r := oteltest.New()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		must(t, second(bus.Subscribe(b, "obs.*", ignore[int])))
		must(t, bus.Publish(t.Context(), b, "obs.literal", 1))
		must(t, bus.Publish(t.Context(), b, bus.Subject[int]("obs.literal.*").At("x"), 1))
		must(t, bus.Publish(t.Context(), b, "obs.literal.y", 1)) // as if At had made it
		synctest.Wait()
	}, observed(r)...)
	sameTree(t, `
			publish obs.literal (producer send)
				+ process obs.* (consumer process)
			publish obs.literal.* (producer send)
			publish obs.literal.* (producer send)
			`, r)
	s, _ := r.Span("publish obs.literal")
	if got := attrs(s.Attributes); got != "client.id=obs destination.name=obs.literal destination.template=obs.literal message.body.size=1 operation.name=publish operation.type=send system=nats" {
		t.Errorf("the span has %s", got)
	}
	sameSeries(t, r, "messaging.client.sent.messages",
		"1 1 destination.template=obs.literal operation.name=publish system=nats",
		"2 2 destination.template=obs.literal.* operation.name=publish system=nats")
}

// With metrics alone there are no spans, and the other way round.
func TestMetricsWithoutSpans(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	bustest.Run(t, everything, bus.WithName("obs"), bus.WithLogger(silent()), measured(r))
	if n := len(r.Spans()); n != 0 {
		t.Errorf("there are %d spans", n)
	}
	if n := r.Sum("messaging.client.sent.messages"); n != 7 {
		t.Errorf("%v messages were sent, want 7", n)
	}
	r = oteltest.New()
	bustest.Run(t, everything, bus.WithName("obs"), bus.WithLogger(silent()), traced(r))
	if n := len(r.Measurements("messaging.client.sent.messages")); n != 0 || len(r.Spans()) == 0 {
		t.Errorf("there are %d measurements and %d spans", n, len(r.Spans()))
	}
}

// What is refused before it is sent is no attempt to send.
func TestNoSpansOfWhatIsRefused(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	b := bustest.New(t, observed(r)...)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
	for _, err := range []error{
		bus.Publish(t.Context(), b, obsPub, 1),
		bus.Publish(t.Context(), b, "obs.pub.x", make([]byte, 2<<20)),
		bus.Publish(t.Context(), b, obsStore.At("x"), 1), // captured
		second(bus.Request(t.Context(), b, obsAsk, 1)),
		second(bus.PublishTo(t.Context(), st, obsPub.At("x"), 1)),
	} {
		if err == nil {
			t.Error("it was sent")
		}
	}
	sameTree(t, "", r)
	sameSeries(t, r, "messaging.client.sent.messages")
}

// slowError is an error with a type of its own.
type slowError struct{}

func (slowError) Error() string { return "slow" }

// error.type has few values: what kind of failure it was.
func TestErrorTypes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, b *bus.Bus)
		span string
		want string
	}{
		{"a text", handled(func(context.Context) error { return errNo }), "process obs.pub.*", "_OTHER"},
		{"a wrapped text", handled(func(context.Context) error { return fmt.Errorf("at all: %w", errNo) }), "process obs.pub.*", "_OTHER"},
		{"a type of the program", handled(func(context.Context) error { return slowError{} }), "process obs.pub.*", "bus_test.slowError"},
		{"that wrapped", handled(func(context.Context) error { return fmt.Errorf("it is %w", slowError{}) }), "process obs.pub.*", "bus_test.slowError"},
		{"a panic", handled(func(context.Context) error { panic("oh") }), "process obs.pub.*", "bus.PanicError"},
		{"a handler out of time", handled(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }), "process obs.pub.*", "timeout"},
		{"a cancelled call in a handler", handled(func(context.Context) error { return context.Canceled }), "process obs.pub.*", "canceled"},
		{"a request out of time", func(t *testing.T, b *bus.Bus) {
			must(t, second(b.Conn().SubscribeSync("obs.ask.x")))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			isError(t, second(bus.Request(ctx, b, obsAsk.At("x"), 1)), bus.ErrTimeout)
		}, "request obs.ask.*", "timeout"},
		{"a request that is given up", func(t *testing.T, b *bus.Bus) {
			must(t, second(b.Conn().SubscribeSync("obs.ask.x")))
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			isError(t, second(bus.Request(ctx, b, obsAsk.At("x"), 1)), context.Canceled)
		}, "request obs.ask.*", "canceled"},
		{"a stream's refusal", func(t *testing.T, b *bus.Bus) {
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
			must(t, b.JetStream().DeleteStream(t.Context(), "S"))
			if err := second(bus.PublishTo(t.Context(), st, obsStore.At("x"), 1)); err == nil {
				t.Error("it was stored")
			}
		}, "store obs.store.*", "_OTHER"},
		{"a closed connection", func(t *testing.T, b *bus.Bus) {
			b.Conn().Close()
			isError(t, bus.Publish(t.Context(), b, obsPub.At("x"), 1), bus.ErrClosed)
		}, "publish obs.pub.*", "_OTHER"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := oteltest.New()
			bustest.Run(t, tc.run, observed(r)...)
			s, ok := r.Span(tc.span)
			if !ok || s.Attr("error.type") != tc.want || s.Status != codes.Error || s.Description == "" {
				t.Errorf("the span is %+v, want error.type %q", s, tc.want)
			}
			counter := "messaging.client.sent.messages"
			if strings.HasPrefix(tc.span, "process") {
				counter = "messaging.client.consumed.messages"
			}
			name, _, _ := strings.Cut(tc.span, " ")
			if n := r.Sum(counter, attribute.String("error.type", tc.want), attribute.String("messaging.operation.name", name)); n != 1 {
				t.Errorf("%v are counted with this error.type", n)
			}
		})
	}
}

// handled has a handler with a second of time return what f does.
func handled(f func(context.Context) error) func(*testing.T, *bus.Bus) {
	return func(t *testing.T, b *bus.Bus) {
		_, err := bus.Subscribe(b, obsPub, func(ctx context.Context, _ *bus.Msg[int]) error { return f(ctx) }, bus.HandlerTimeout(time.Second))
		must(t, err)
		must(t, bus.Publish(t.Context(), b, obsPub.At("x"), 1))
		time.Sleep(time.Minute)
	}
}

// Of what the conventions have no names for.
func TestMetricsOfOurOwn(t *testing.T) {
	t.Parallel()
	t.Run("dropped", func(t *testing.T) {
		t.Parallel()
		r := oteltest.New()
		bustest.Run(t, func(t *testing.T, b *bus.Bus) {
			h, _, release := held[int](100)
			sub, err := bus.Subscribe(b, obsPub, h, bus.PendingLimits(5, -1), bus.Queue("workers"))
			must(t, err)
			for range 2 { // the connection tells of the first time only
				must(t, bus.PublishBatch(t.Context(), b, obsPub.At("x"), make([]int, 20)))
				synctest.Wait()
			}
			close(release)
			must(t, sub.Drain(t.Context()))
			if n := b.Stats().Dropped; n < 34 || r.Sum("omnibus.messages.dropped") != float64(n) {
				t.Errorf("the metric says %v, the statistics %d", r.Sum("omnibus.messages.dropped"), n)
			}
		}, observed(r)...)
		m := r.Measurements("omnibus.messages.dropped")[0]
		if got := attrs(m.Attributes.ToSlice()); got != "consumer.group.name=workers destination.template=obs.pub.* system=nats" {
			t.Errorf("its attributes are %s", got)
		}
	})
	t.Run("redelivered", func(t *testing.T) {
		t.Parallel()
		r := oteltest.New()
		bustest.Run(t, func(t *testing.T, b *bus.Bus) {
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
			storeRange(t, st, "s", 0, 4)
			giveBack(t, b, "S", "d", 2)
			consume(t, st, "d", "s", func(_ context.Context, m *bus.Msg[int]) error {
				if m.Attempt < 3 {
					return errNo
				}
				return nil
			})
			time.Sleep(time.Minute)
		}, observed(r)...)
		sameSeries(t, r, "omnibus.messages.redelivered", "2 2 consumer.group.name=d destination.template=s system=nats")
	})
	t.Run("reconnects", func(t *testing.T) {
		t.Parallel()
		r := oteltest.New()
		record, events := recordEvents()
		b := bustest.New(t, append(observed(r), record)...)
		must(t, b.Conn().ForceReconnect())
		awaitEvent(t, events, event.Reconnected)
		sameSeries(t, r, "omnibus.connection.reconnects", "1 1 client.id=obs system=nats")
	})
}

// A program's subjects may have identifiers in them, and so have those on which
// the library keeps messages aside: of metrics neither makes many series.
func TestSeriesAreFew(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	const n = 50
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		consume(t, st, "d", obsStore, giveUp)
		must(t, second(bus.Respond(b, obsAsk, double)))
		for i := range n {
			id := fmt.Sprint("id-", i)
			must(t, bus.Publish(t.Context(), b, obsPub.At(id), i))
			must(t, second(bus.Request(t.Context(), b, obsAsk.At(id), i)))
			must(t, second(bus.PublishTo(t.Context(), st, obsStore.At(id), i)))
		}
		time.Sleep(time.Minute)
		if d := b.Stats().DeadLetters; d != n {
			t.Errorf("%d dead letters, want %d", d, n)
		}
	}, observed(r)...)
	series := map[string]bool{}
	for _, name := range []string{"messaging.client.operation.duration", "messaging.client.sent.messages", "messaging.process.duration", "messaging.client.consumed.messages"} {
		for _, m := range r.Measurements(name) {
			series[m.Attr("messaging.destination.template")] = true
		}
	}
	if len(series) > 6 {
		t.Errorf("there are %d destinations: %v", len(series), series)
	}
}

var (
	codeBlock   = regexp.MustCompile("(?s)```.*?```")
	inBackticks = regexp.MustCompile("`([^`]+)`")
)

// The document names what there is, and nothing else.
func TestObservabilityDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/observability.md")
	must(t, err)
	r := oteltest.New()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		everything(t, b)
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		consume(t, st, "buries", obsStore, giveUp)
		con := consume(t, st, "gives_back", obsStore, func(context.Context, *bus.Msg[int]) error { time.Sleep(time.Second); return errNo })
		synctest.Wait()
		must(t, con.Drain(t.Context()))
	}, observed(r)...)
	_, doc, _ := strings.Cut(string(text), "\n## Traces and metrics")
	documented := map[string]bool{}
	doc = codeBlock.ReplaceAllString(doc, "")
	for _, m := range inBackticks.FindAllStringSubmatch(doc, -1) {
		documented[m[1]] = true
	}
	seen := map[string]string{} // name → row of a table
	for _, s := range r.Spans() {
		name, typ := s.Attr("messaging.operation.name"), s.Attr("messaging.operation.type")
		seen[name] = fmt.Sprintf("`%s` | %s |", typ, s.Kind)
		for _, kv := range s.Attributes {
			seen[string(kv.Key)] = ""
		}
	}
	for _, name := range []string{"messaging.client.operation.duration", "messaging.process.duration", "messaging.client.sent.messages",
		"messaging.client.consumed.messages", "omnibus.messages.dropped", "omnibus.messages.redelivered", "omnibus.connection.reconnects",
		"omnibus.messages.dead_lettered", "omnibus.dead_letter.cause", "omnibus.consumer.lag", "omnibus.consumer.oldest_message.age", "omnibus.stream.name"} {
		seen[name] = ""
	}
	for name, row := range seen {
		if !documented[name] {
			t.Errorf("`%s` is not documented", name)
			continue
		}
		if row != "" && !slices.ContainsFunc(strings.Split(doc, "\n"), func(line string) bool {
			return strings.HasPrefix(line, "| `") && strings.Contains(line, "`"+name+"`") && strings.Contains(line, row)
		}) {
			t.Errorf("no row says of `%s` that it is %s", name, row)
		}
	}
	for name := range documented {
		if _, ok := seen[name]; !ok && (strings.HasPrefix(name, "messaging.") || strings.HasPrefix(name, "omnibus.") || name == "error.type") {
			t.Errorf("`%s` is documented, and nowhere to be seen", name)
		}
	}
}

// Dead letters are counted by their cause.
func TestMetricOfDeadLetters(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		consume(t, st, "d", obsStore, giveUp)
		must(t, second(bus.PublishTo(t.Context(), st, obsStore.At("x"), 1)))
		must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[string](obsStore.At("x")), "no number")))
		time.Sleep(time.Minute)
	}, measured(r), bus.WithLogger(silent()))
	sameSeries(t, r, "omnibus.messages.dead_lettered",
		"1 1 consumer.group.name=d destination.template=obs.store.* omnibus.dead_letter.cause=malformed system=nats",
		"1 1 consumer.group.name=d destination.template=obs.store.* omnibus.dead_letter.cause=permanent system=nats")
}
