package telemetry_test

import (
	"context"
	"errors"
	"maps"
	"testing"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
)

type header = map[string][]string

var bg = context.Background()

// tracing returns a Telemetry with spans only, and where they go.
func tracing(t *testing.T) (*telemetry.Telemetry, *oteltest.Recorder) {
	t.Helper()
	r := oteltest.New()
	tel, err := telemetry.New(telemetry.Config{TracerProvider: r.TracerProvider(), Version: "v1.2.3", BusName: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n := r.Open(); n != 0 {
			t.Errorf("%d spans were not ended", n)
		}
	})
	return tel, r
}

func onlySpan(t *testing.T, r *oteltest.Recorder) oteltest.Span {
	t.Helper()
	spans := r.Spans()
	if len(spans) != 1 {
		t.Fatalf("got %d spans, want 1: %+v", len(spans), spans)
	}
	return spans[0]
}

func attributes(s oteltest.Span) map[string]string {
	m := map[string]string{}
	for _, kv := range s.Attributes {
		m[string(kv.Key)] = kv.Value.String()
	}
	return m
}

func TestSpanNamesKindsAttributes(t *testing.T) {
	begin := func(f func(*telemetry.Telemetry, telemetry.Op) telemetry.Span) func(*telemetry.Telemetry, telemetry.Op) telemetry.Span {
		return f
	}
	send := begin(func(tel *telemetry.Telemetry, op telemetry.Op) telemetry.Span { _, s := tel.Send(bg, op); return s })
	process := begin(func(tel *telemetry.Telemetry, op telemetry.Op) telemetry.Span {
		_, s := tel.Process(bg, op, nil)
		return s
	})
	settle := begin(func(tel *telemetry.Telemetry, op telemetry.Op) telemetry.Span { _, s := tel.Settle(bg, op); return s })

	for _, c := range []struct {
		what  string
		begin func(*telemetry.Telemetry, telemetry.Op) telemetry.Span
		op    telemetry.Op
		name  string
		kind  trace.SpanKind
		start int // attributes that a sampler sees
		attrs map[string]string
	}{
		{
			"publish to a pattern", send,
			telemetry.Op{Name: telemetry.OpPublish, Subject: "shop.7.placed", Template: "shop.*.placed", MessageID: "m1", Size: 42, Group: "ignored"},
			"publish shop.*.placed", trace.SpanKindProducer, 5,
			map[string]string{
				"messaging.operation.name": "publish", "messaging.operation.type": "send",
				"messaging.destination.name": "shop.7.placed", "messaging.destination.template": "shop.*.placed",
				"messaging.message.id": "m1", "messaging.message.body.size": "42",
			},
		},
		{
			"publish to a literal", send,
			telemetry.Op{Name: telemetry.OpPublish, Subject: "shop.audit", Template: "shop.audit"},
			"publish shop.audit", trace.SpanKindProducer, 6,
			map[string]string{
				"messaging.operation.name": "publish", "messaging.operation.type": "send",
				"messaging.destination.name": "shop.audit", "messaging.destination.template": "shop.audit",
			},
		},
		{
			"publish to an unknown pattern", send,
			telemetry.Op{Subject: "a.b"},
			"send", trace.SpanKindProducer, 4,
			map[string]string{
				"messaging.operation.name": "send", "messaging.operation.type": "send",
				"messaging.destination.name": "a.b",
			},
		},
		{
			"request", send,
			telemetry.Op{Name: telemetry.OpRequest, Subject: "shop.quote", Template: "shop.quote"},
			"request shop.quote", trace.SpanKindClient, 6,
			map[string]string{
				"messaging.operation.name": "request", "messaging.operation.type": "send",
				"messaging.destination.name": "shop.quote", "messaging.destination.template": "shop.quote",
			},
		},
		{
			"process", process,
			telemetry.Op{Subject: "shop.7.placed", Template: "shop.*.placed", Group: "billing"},
			"process shop.*.placed", trace.SpanKindConsumer, 6,
			map[string]string{
				"messaging.operation.name": "process", "messaging.operation.type": "process",
				"messaging.destination.name": "shop.7.placed", "messaging.destination.template": "shop.*.placed",
				"messaging.consumer.group.name": "billing",
			},
		},
		{
			"ack", settle,
			telemetry.Op{Name: telemetry.OpAck, Template: "shop.>", Group: "billing"},
			"ack shop.>", trace.SpanKindClient, 6,
			map[string]string{
				"messaging.operation.name": "ack", "messaging.operation.type": "settle",
				"messaging.destination.template": "shop.>", "messaging.consumer.group.name": "billing",
			},
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			tel, r := tracing(t)
			c.begin(tel, c.op).End(nil)
			s := onlySpan(t, r)
			if s.Name != c.name || s.Kind != c.kind || s.AtStart != c.start {
				t.Errorf("got %q, %v, %d attributes at start, want %q, %v, %d", s.Name, s.Kind, s.AtStart, c.name, c.kind, c.start)
			}
			c.attrs["messaging.system"], c.attrs["messaging.client.id"] = "nats", "shop"
			if got := attributes(s); !maps.Equal(got, c.attrs) {
				t.Errorf("attributes\n %v, want\n %v", got, c.attrs)
			}
			if s.Status != codes.Unset || s.Parent.IsValid() || len(s.Links) > 0 {
				t.Errorf("status %v, parent %v, links %v", s.Status, s.Parent, s.Links)
			}
		})
	}
}

func TestScopeIsTheLibrary(t *testing.T) {
	_, r := tracing(t)
	want := oteltest.Scope{Name: "github.com/omnibus-go/bus", Version: "v1.2.3", SchemaURL: "https://opentelemetry.io/schemas/1.44.0"}
	if got := r.Scopes(); len(got) != 1 || got[0] != want {
		t.Errorf("scopes %+v", got)
	}
}

func TestPublishProcessSettleAreOneTrace(t *testing.T) {
	here, sender := tracing(t)
	there, receiver := tracing(t)

	ctx, sending := here.Send(bg, telemetry.Op{Name: telemetry.OpPublish, Template: "a"})
	h := here.Inject(ctx, nil)
	sending.End(nil)
	ctx, handling := there.Process(bg, telemetry.Op{Template: "a"}, h)
	_, inside := there.Send(ctx, telemetry.Op{Name: telemetry.OpPublish, Template: "b"})
	inside.End(nil)
	handling.End(nil)
	_, settling := there.Settle(ctx, telemetry.Op{Name: telemetry.OpAck, Template: "a"})
	settling.End(nil)

	publish := onlySpan(t, sender)
	process, _ := receiver.Span("process a")
	if !process.ChildOf(publish) || !process.Parent.IsRemote() || !process.LinksTo(publish) || len(process.Links) != 1 {
		t.Errorf("process is not the child of publish: %+v", process)
	}
	for _, name := range []string{"publish b", "ack a"} {
		if s, ok := receiver.Span(name); !ok || !s.ChildOf(process) {
			t.Errorf("%s is not a child of process: %+v", name, s)
		}
	}
}

func TestProcessInsideASpanLinks(t *testing.T) {
	tel, r := tracing(t)
	ctx, sending := tel.Send(bg, telemetry.Op{Template: "a"})
	h := tel.Inject(ctx, nil)
	sending.End(nil)

	around, outer := r.TracerProvider().Tracer("user").Start(bg, "outer")
	ctx, handling := tel.Process(around, telemetry.Op{Template: "a"}, h)
	handling.End(nil)
	outer.End()

	send, _ := r.Span("send a")
	outside, _ := r.Span("outer")
	process, _ := r.Span("process a")
	if !process.ChildOf(outside) || !process.LinksTo(send) || len(process.Links) != 1 {
		t.Errorf("process: parent %v, links %v", process.Parent, process.Links)
	}
	if trace.SpanContextFromContext(ctx).SpanID() != process.SpanContext.SpanID() {
		t.Error("the handler's context does not carry the span")
	}
}

func TestProcessWithoutHeaderInsideASpan(t *testing.T) {
	for name, h := range map[string]header{"nil": nil, "other keys": {"Content-Type": {"x"}}} {
		t.Run(name, func(t *testing.T) {
			tel, r := tracing(t)
			around, outer := r.TracerProvider().Tracer("user").Start(bg, "outer")
			_, handling := tel.Process(around, telemetry.Op{Template: "a"}, h)
			handling.End(nil)
			outer.End()
			outside, _ := r.Span("outer")
			process, _ := r.Span("process a")
			if !process.ChildOf(outside) || len(process.Links) != 0 {
				t.Errorf("process: parent %v, links %v", process.Parent, process.Links)
			}
		})
	}
}

func TestFailureIsOnTheSpan(t *testing.T) {
	tel, r := tracing(t)
	_, s := tel.Process(bg, telemetry.Op{Template: "a"}, nil)
	s.End(errors.New("no stock"))
	got := onlySpan(t, r)
	if got.Status != codes.Error || got.Description != "no stock" || got.Attr("error.type") != "_OTHER" {
		t.Errorf("status %v %q, error.type %q", got.Status, got.Description, got.Attr("error.type"))
	}
}

func TestLinksDoNotLeakIntoLaterSpans(t *testing.T) {
	tel, r := tracing(t)
	ctx, s := tel.Send(bg, telemetry.Op{Template: "a"})
	h := tel.Inject(ctx, nil)
	s.End(nil)
	for _, h := range []header{h, nil, h, nil} {
		_, p := tel.Process(bg, telemetry.Op{Template: "a"}, h)
		p.End(nil)
	}
	for i, s := range r.Spans()[1:] {
		if want := 1 - i%2; len(s.Links) != want || len(s.Attributes) != 5 {
			t.Errorf("span %d has %d links and attributes %v", i, len(s.Links), s.Attributes)
		}
	}
}
