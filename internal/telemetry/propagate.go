package telemetry

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Inject writes the context of ctx's span and the baggage into h, a message's
// own header, and returns it. It makes one if h is nil and there is something
// to write. Without a tracer provider, or with no valid span in ctx, it leaves h
// alone; a span that was sampled out is written all the same, so that the
// receiver leaves it out as well. A context that h already carries, because the
// caller set it or the message is passed on, stays; the span links to it.
func (t *Telemetry) Inject(ctx context.Context, h map[string][]string) map[string][]string {
	if t == nil || t.tracer == nil {
		return h
	}
	return t.inject(ctx, h)
}

func (t *Telemetry) inject(ctx context.Context, h map[string][]string) map[string][]string {
	span := trace.SpanFromContext(ctx)
	if !span.SpanContext().IsValid() {
		return h
	}
	if own := t.creation(h); own.IsValid() {
		if own.SpanID() != span.SpanContext().SpanID() { // not a second attempt
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

// creation returns the creation context that h carries, invalid if none.
func (t *Telemetry) creation(h map[string][]string) trace.SpanContext {
	if len(h) == 0 {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(t.propagator.Extract(context.Background(), carrier(h)))
}

// adopt returns ctx with what h carries: the baggage, and the creation context
// as parent of what follows unless ctx has a span already. The link is to the
// creation context either way, as the conventions want it.
func (t *Telemetry) adopt(ctx context.Context, h map[string][]string) (context.Context, []trace.Link) {
	if t.tracer == nil || len(h) == 0 {
		return ctx, nil
	}
	around := trace.SpanFromContext(ctx)
	ctx = t.propagator.Extract(ctx, carrier(h))
	creation := trace.SpanContextFromContext(ctx)
	if !creation.IsValid() || creation.Equal(around.SpanContext()) {
		return ctx, nil // h carried no context of its own
	}
	if around.SpanContext().IsValid() {
		ctx = trace.ContextWithSpan(ctx, around)
	}
	return ctx, []trace.Link{{SpanContext: creation}}
}

// carrier lets propagators read and write a NATS header. NATS keys are case
// sensitive: it writes them as given, and reads another spelling, such as the
// "Traceparent" of a carrier made for HTTP, if the exact one is absent.
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

// Set replaces the values of key, whatever its spelling was.
func (c carrier) Set(key, value string) {
	for k := range c {
		if k != key && strings.EqualFold(k, key) {
			delete(c, k)
		}
	}
	c[key] = []string{value}
}

// Keys returns all keys as they are spelt.
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}
