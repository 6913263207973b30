package bus_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
)

// observed returns options that have r record spans and metrics.
func observed(r *oteltest.Recorder) []bus.Option {
	return []bus.Option{bus.WithName("obs"), bus.WithLogger(silent()), traced(r), measured(r)}
}

func traced(r *oteltest.Recorder) bus.ConnectOption {
	return bus.WithTracerProvider(r.TracerProvider())
}

// userSpan returns ctx in a span of the program's own.
func userSpan(ctx context.Context, r *oteltest.Recorder, name string) (context.Context, trace.Span) {
	return r.TracerProvider().Tracer("program").Start(ctx, name)
}

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
