package oteltest_test

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
)

func TestSpans(t *testing.T) {
	r := oteltest.New()
	tracer := r.TracerProvider().Tracer("x", trace.WithInstrumentationVersion("v1"))
	ctx, outer := tracer.Start(context.Background(), "outer")
	_, inner := tracer.Start(ctx, "inner", trace.WithAttributes(attribute.Int("n", 1)))
	_, apart := tracer.Start(ctx, "apart", trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(ctx)))
	inner.SetAttributes(attribute.Int("n", 2))
	inner.SetStatus(codes.Error, "bad")
	if _, ok := r.Span("inner"); ok || r.Open() != 3 {
		t.Errorf("an open span is among the finished; %d open", r.Open())
	}
	for _, s := range []trace.Span{inner, inner, apart, outer} {
		s.End()
	}
	inner.SetName("too late")

	in, _ := r.Span("inner")
	out, _ := r.Span("outer")
	root, _ := r.Span("apart")
	if len(r.Spans()) != 3 || r.Open() != 0 {
		t.Errorf("%d spans, %d open", len(r.Spans()), r.Open())
	}
	if !in.ChildOf(out) || out.Parent.IsValid() || root.ChildOf(out) || root.SameTrace(out) || !root.LinksTo(out) {
		t.Errorf("the spans hang together wrongly: %+v", r.Spans())
	}
	if in.Attr("n") != "2" || in.Attr("none") != "" || in.AtStart != 1 || in.Status != codes.Error || in.Description != "bad" {
		t.Errorf("inner: %+v", in)
	}
	if s := r.Scopes(); len(s) != 1 || s[0].Name != "x" || s[0].Version != "v1" {
		t.Errorf("scopes %+v", s)
	}
}

func TestMeasurements(t *testing.T) {
	r := oteltest.New()
	meter := r.MeterProvider().Meter("x")
	counter, _ := meter.Int64Counter("c", metric.WithUnit("{message}"))
	if _, err := meter.Int64Gauge("not recorded"); err != nil {
		t.Error(err)
	}
	ctx := context.Background()
	counter.Add(ctx, 1, metric.WithAttributes(attribute.String("k", "a")))
	counter.Add(ctx, 2, metric.WithAttributes(attribute.String("k", "b")))
	if all, b := r.Sum("c"), r.Sum("c", attribute.String("k", "b")); all != 3 || b != 2 {
		t.Errorf("sums %v and %v", all, b)
	}
	if m := r.Measurements("c"); m[0].Attr("k") != "a" || m[0].Attr("none") != "" {
		t.Errorf("measurements %+v", m)
	}
	if i, ok := r.Instrument("c"); !ok || i.Unit != "{message}" {
		t.Errorf("instrument %+v", i)
	}
	if r.Reset(); r.Sum("c") != 0 {
		t.Error("Reset keeps measurements")
	}
}
