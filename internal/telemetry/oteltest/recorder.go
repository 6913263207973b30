// Package oteltest records spans and metrics in memory, for tests of the OpenTelemetry spans and
// metrics of a bus. It is for tests only. It replaces the OpenTelemetry SDK, which would reach the
// go.sum of every user.
package oteltest

import (
	"sync"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Recorder records the spans of a tracer provider and the measurements of a meter provider. Two
// recorders can take the part of two processes, because span and trace IDs are unique in the test
// binary. Safe for concurrent use.
type Recorder struct {
	mu           sync.Mutex
	unsampled    bool
	scopes       []Scope
	open         int
	spans        []Span
	instruments  map[string]Instrument
	measurements []Measurement
	callbacks    map[int]metric.Callback
	registered   int
}

// Scope is the name, version and schema of a tracer or meter.
type Scope struct {
	Name, Version, SchemaURL string
}

// New returns an empty Recorder that samples every span.
func New() *Recorder {
	return &Recorder{instruments: map[string]Instrument{}}
}

// TracerProvider returns the provider whose spans r records.
func (r *Recorder) TracerProvider() trace.TracerProvider { return tracerProvider{r: r} }

// MeterProvider returns the provider whose measurements r records.
func (r *Recorder) MeterProvider() metric.MeterProvider { return meterProvider{r: r} }

// SampleNone makes later spans valid and not recording, as a sampler does that drops them.
func (r *Recorder) SampleNone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsampled = true
}

// Scopes returns the scopes of all tracers and meters, in the order in which they were made.
func (r *Recorder) Scopes() []Scope {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Scope(nil), r.scopes...)
}

// Reset removes all spans and measurements. Instruments and sampling stay.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans, r.measurements = nil, nil
}

// addScope records a scope.
func (r *Recorder) addScope(s Scope) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scopes = append(r.scopes, s)
}
