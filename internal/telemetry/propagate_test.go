package telemetry_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
)

const (
	traceID = "0123456789abcdef0123456789abcdef"
	spanID  = "0123456789abcdef"
	parent  = "00-" + traceID + "-" + spanID + "-01"
)

func TestInjectWritesExactKeys(t *testing.T) {
	tel, r := tracing(t)
	state, _ := trace.ParseTraceState("vendor=1")
	member, _ := baggage.NewMember("tenant", "eu")
	bag, _ := baggage.New(member)
	remote := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceState: state})
	ctx := baggage.ContextWithBaggage(trace.ContextWithSpanContext(bg, remote), bag)

	ctx, s := tel.Send(ctx, telemetry.Op{Template: "a"})
	h := header{"Content-Type": {"application/json"}}
	got := tel.Inject(ctx, h)
	s.End(nil)

	sc := onlySpan(t, r).SpanContext
	want := header{
		"Content-Type": {"application/json"},
		"traceparent":  {fmt.Sprintf("00-%s-%s-01", sc.TraceID(), sc.SpanID())},
		"tracestate":   {"vendor=1"},
		"baggage":      {"tenant=eu"},
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("header\n %v, want\n %v", got, want)
	}
	if len(h) != 4 {
		t.Error("Inject did not write into the given header")
	}
}

func TestInjectLeavesHeaderAlone(t *testing.T) {
	tel, _ := tracing(t)
	r := oteltest.New()
	metricsOnly, err := telemetry.New(telemetry.Config{MeterProvider: r.MeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	users, span := r.TracerProvider().Tracer("user").Start(bg, "outer")
	defer span.End()
	for name, inject := range map[string]func(header) header{
		"no span":     func(h header) header { return tel.Inject(bg, h) },
		"off":         func(h header) header { return (*telemetry.Telemetry)(nil).Inject(users, h) },
		"no provider": func(h header) header { return metricsOnly.Inject(users, h) },
	} {
		t.Run(name, func(t *testing.T) {
			if h := inject(nil); h != nil {
				t.Errorf("made a header: %v", h)
			}
			if h := inject(header{"a": {"b"}}); len(h) != 1 {
				t.Errorf("wrote into the header: %v", h)
			}
		})
	}
}

func TestInjectWithNothingToWriteMakesNoHeader(t *testing.T) {
	r := oteltest.New()
	tel, err := telemetry.New(telemetry.Config{TracerProvider: r.TracerProvider(), Propagator: propagation.Baggage{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, s := tel.Send(bg, telemetry.Op{Template: "a"})
	defer s.End(nil)
	if h := tel.Inject(ctx, nil); h != nil {
		t.Errorf("made a header: %v", h)
	}
}

func TestInjectKeepsACreationContext(t *testing.T) {
	for _, key := range []string{"traceparent", "Traceparent"} {
		t.Run(key, func(t *testing.T) {
			tel, r := tracing(t)
			ctx, s := tel.Send(bg, telemetry.Op{Template: "a"})
			h := tel.Inject(ctx, header{key: {parent}})
			s.End(nil)
			if len(h) != 1 || h[key][0] != parent {
				t.Errorf("header %v", h)
			}
			links := onlySpan(t, r).Links
			if len(links) != 1 || links[0].SpanContext.TraceID().String() != traceID {
				t.Errorf("links %v", links)
			}
		})
	}
}

func TestInjectTwiceIsOneAttempt(t *testing.T) {
	tel, r := tracing(t)
	ctx, s := tel.Send(bg, telemetry.Op{Template: "a"})
	h := tel.Inject(ctx, nil)
	first := h["traceparent"][0]
	h = tel.Inject(ctx, h)
	s.End(nil)
	if h["traceparent"][0] != first || len(onlySpan(t, r).Links) != 0 {
		t.Errorf("header %v, links %v", h, onlySpan(t, r).Links)
	}
}

func TestInjectReplacesBrokenContextInAnySpelling(t *testing.T) {
	tel, _ := tracing(t)
	ctx, s := tel.Send(bg, telemetry.Op{Template: "a"})
	defer s.End(nil)
	h := tel.Inject(ctx, header{"Traceparent": {"nonsense"}})
	if len(h) != 1 || !strings.HasPrefix(h["traceparent"][0], "00-") {
		t.Errorf("header %v", h)
	}
}

func TestProcessReadsAnyCase(t *testing.T) {
	other := "00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-01"
	for name, h := range map[string]header{
		"exact":            {"traceparent": {parent}},
		"of HTTP":          {"Traceparent": {parent}},
		"upper":            {"TRACEPARENT": {parent}},
		"exact goes first": {"Traceparent": {other}, "traceparent": {parent}},
	} {
		t.Run(name, func(t *testing.T) {
			tel, r := tracing(t)
			_, s := tel.Process(bg, telemetry.Op{Template: "a"}, h)
			s.End(nil)
			got := onlySpan(t, r).Parent
			if got.TraceID().String() != traceID || got.SpanID().String() != spanID || !got.IsRemote() {
				t.Errorf("parent %+v", got)
			}
		})
	}
}

func TestProcessSurvivesBrokenHeaders(t *testing.T) {
	for name, h := range map[string]header{
		"empty":     {"traceparent": {}},
		"nil":       {"traceparent": nil},
		"garbage":   {"traceparent": {"00-zz"}, "tracestate": {"=,="}},
		"zero IDs":  {"traceparent": {"00-00000000000000000000000000000000-0000000000000000-01"}},
		"empty map": {},
	} {
		t.Run(name, func(t *testing.T) {
			tel, r := tracing(t)
			_, s := tel.Process(bg, telemetry.Op{Template: "a"}, h)
			s.End(nil)
			if got := onlySpan(t, r); got.Parent.IsValid() || len(got.Links) > 0 {
				t.Errorf("parent %v, links %v", got.Parent, got.Links)
			}
		})
	}
}

func TestBaggageReachesTheHandler(t *testing.T) {
	tel, r := tracing(t)
	around, outer := r.TracerProvider().Tracer("user").Start(bg, "outer")
	defer outer.End()
	for name, ctx := range map[string]context.Context{"no span": bg, "in a span": around} {
		t.Run(name, func(t *testing.T) {
			ctx, s := tel.Process(ctx, telemetry.Op{Template: "a"}, header{"Baggage": {"tenant=eu"}})
			defer s.End(nil)
			if got := baggage.FromContext(ctx).Member("tenant").Value(); got != "eu" {
				t.Errorf("tenant is %q", got)
			}
		})
	}
}

func TestUnsampledSpansTravel(t *testing.T) {
	tel, r := tracing(t)
	r.SampleNone()
	ctx, s := tel.Send(bg, telemetry.Op{Subject: "a.1", Template: "a.*"})
	h := tel.Inject(ctx, nil)
	s.End(nil)
	if got := h["traceparent"]; len(got) != 1 || !strings.HasSuffix(got[0], "-00") {
		t.Errorf("traceparent %v, want one that says not sampled", got)
	}
	if len(r.Spans()) != 0 {
		t.Errorf("spans %v", r.Spans())
	}
}
