package telemetry

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Inject writes the context of the span in ctx and the baggage into h, the header of a message, and
// returns h. If h is nil and there is something to write, it makes a header. Without a tracer
// provider or a valid span it does not change h. It also writes a span that is not sampled, so
// that the receiver does not sample it either. If h already has a context, because the caller set
// it or the message is forwarded, that stays, and the span links to it.
func (t *Telemetry) Inject(ctx context.Context, h map[string][]string) map[string][]string {
	if t == nil || t.tracer == nil {
		return h
	}
	return t.inject(ctx, h)
}

// inject does the work of Inject.
func (t *Telemetry) inject(ctx context.Context, h map[string][]string) map[string][]string {
	span := trace.SpanFromContext(ctx)
	if !span.SpanContext().IsValid() {
		return h
	}
	if own := t.creation(h); own.IsValid() {
		if own.SpanID() != span.SpanContext().SpanID() { // it is the same for a repeated call
			span.AddLink(trace.Link{SpanContext: own})
		}
		return h
	}
	target := h
	if target == nil {
		target = make(map[string][]string, 1)
	}
	t.propagator.Inject(ctx, carrier(target))
	if len(target) == 0 {
		return h
	}
	return target
}

// creation returns the creation context in h. It is invalid if there is none.
func (t *Telemetry) creation(h map[string][]string) trace.SpanContext {
	if len(h) == 0 {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(t.propagator.Extract(context.Background(), carrier(h)))
}

// extract returns ctx with the baggage of h. If ctx has no span it also has the creation context of h
// as parent. The link is to the creation context in both cases, as the conventions require.
func (t *Telemetry) extract(ctx context.Context, h map[string][]string) (context.Context, []trace.Link) {
	if t.tracer == nil || len(h) == 0 {
		return ctx, nil
	}
	around := trace.SpanFromContext(ctx)
	ctx = t.propagator.Extract(ctx, carrier(h))
	creation := trace.SpanContextFromContext(ctx)
	if !creation.IsValid() || creation.Equal(around.SpanContext()) {
		return ctx, nil // h has no context
	}
	if around.SpanContext().IsValid() {
		ctx = trace.ContextWithSpan(ctx, around)
	}
	return ctx, []trace.Link{{SpanContext: creation}}
}

// carrier lets propagators read and write a NATS header. NATS keys are case-sensitive. carrier writes
// keys unchanged. It reads a key in another case if the exact one does not exist, for example
// "Traceparent" from a carrier for HTTP.
type carrier map[string][]string

var (
	_ propagation.TextMapCarrier = carrier(nil)
	_ propagation.ValuesGetter   = carrier(nil)
)

// Get returns the first value of key, or "".
func (c carrier) Get(key string) string {
	if vs := c.Values(key); len(vs) > 0 {
		return vs[0]
	}
	return ""
}

// Values returns all values of key.
func (c carrier) Values(key string) []string {
	if vs, ok := c[key]; ok {
		return vs
	}
	for k, vs := range c {
		if strings.EqualFold(k, key) {
			return vs
		}
	}
	return nil
}

// Set replaces the values of key. It removes the same key in another case.
func (c carrier) Set(key, value string) {
	for k := range c {
		if k != key && strings.EqualFold(k, key) {
			delete(c, k)
		}
	}
	c[key] = []string{value}
}

// Keys returns all keys unchanged.
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}
