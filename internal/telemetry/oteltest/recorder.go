// Package oteltest records spans and metrics in memory, for tests of what the
// bus tells OpenTelemetry. It is a small stand-in for the OpenTelemetry SDK,
// which no test of ours may pull into users' go.sum.
package oteltest

import (
	"sync"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Recorder is a tracer and a meter provider that remembers what they are told.
// Two recorders may stand for two processes: span and trace IDs are unique in
// the test binary. All methods are safe for concurrent use.
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

// Scope is the name, version and schema with which a tracer or meter was asked for.
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

// SampleNone makes spans started from now on valid but not recording, as a
// sampler that leaves them out does.
func (r *Recorder) SampleNone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsampled = true
}

// Scopes returns the scopes that were asked for, in that order.
func (r *Recorder) Scopes() []Scope {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Scope(nil), r.scopes...)
}

// Reset forgets all spans and measurements. Instruments and sampling stay.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans, r.measurements = nil, nil
}

func (r *Recorder) addScope(s Scope) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scopes = append(r.scopes, s)
}
