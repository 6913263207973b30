package bus_test

import (
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

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
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

// ownSubject is a subject of the library; its kind is enough for these tests.
var ownSubject = regexp.MustCompile(`(\$OMNIBUS\.\w+)\S*`)

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
