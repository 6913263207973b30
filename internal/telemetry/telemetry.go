package telemetry

import (
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	scope     = "github.com/omnibus-go/bus"
	schemaURL = "https://opentelemetry.io/schemas/1.44.0"
)

// Config has the providers for spans and metrics.
type Config struct {
	TracerProvider trace.TracerProvider          // nil: no spans, no propagation
	MeterProvider  metric.MeterProvider          // nil: no metrics
	Propagator     propagation.TextMapPropagator // nil: W3C trace context and baggage
	Version        string                        // of the library
	BusName        string                        // messaging.client.id; empty: no such attribute
}

// Telemetry makes spans and metrics for one bus. The methods of a nil *Telemetry do nothing. Safe for
// concurrent use.
type Telemetry struct {
	tracer     trace.Tracer // nil: spans are off
	propagator propagation.TextMapPropagator
	metrics    *instruments // nil: metrics are off
	busName    string

	mu    sync.Mutex // locked to write cache
	cache atomic.Pointer[seriesMap]
}

// New returns the Telemetry for c, or nil if c has no provider. It fails if the meter cannot make an
// instrument.
func New(c Config) (*Telemetry, error) {
	if c.TracerProvider == nil && c.MeterProvider == nil {
		return nil, nil
	}
	t := &Telemetry{busName: c.BusName, propagator: c.Propagator}
	if t.propagator == nil {
		t.propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	}
	if c.TracerProvider != nil {
		t.tracer = c.TracerProvider.Tracer(scope,
			trace.WithInstrumentationVersion(c.Version), trace.WithSchemaURL(schemaURL))
	}
	if c.MeterProvider == nil {
		return t, nil
	}
	var err error
	t.metrics, err = newInstruments(c.MeterProvider.Meter(scope,
		metric.WithInstrumentationVersion(c.Version), metric.WithSchemaURL(schemaURL)))
	if err != nil {
		return nil, err
	}
	return t, nil
}
