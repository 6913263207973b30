package oteltest

import (
	"context"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/embedded"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
)

// Instrument is a counter or histogram that was made.
type Instrument struct {
	Name, Unit, Description string
	Bounds                  []float64 // advised bucket boundaries of a histogram
}

// Measurement is one value given to an instrument.
type Measurement struct {
	Name        string // of the instrument
	Value       float64
	Attributes  attribute.Set
	SpanContext trace.SpanContext // of the context it was given with: its exemplar
}

// Attr returns the value of an attribute as text, "" if m has none.
func (m Measurement) Attr(key string) string {
	v, ok := m.Attributes.Value(attribute.Key(key))
	if !ok {
		return ""
	}
	return v.String()
}

// Instrument returns the instrument of that name, and whether there is one.
func (r *Recorder) Instrument(name string) (Instrument, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.instruments[name]
	return i, ok
}

// Measurements returns what the instrument of that name was given, in order.
// With attributes, only what has them all.
func (r *Recorder) Measurements(name string, with ...attribute.KeyValue) []Measurement {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Measurement
	for _, m := range r.measurements {
		if m.Name == name && hasAll(m.Attributes, with) {
			found = append(found, m)
		}
	}
	return found
}

// Sum returns the sum of Measurements: the value of a counter.
func (r *Recorder) Sum(name string, with ...attribute.KeyValue) float64 {
	var sum float64
	for _, m := range r.Measurements(name, with...) {
		sum += m.Value
	}
	return sum
}

func hasAll(set attribute.Set, with []attribute.KeyValue) bool {
	return !slices.ContainsFunc(with, func(kv attribute.KeyValue) bool {
		v, ok := set.Value(kv.Key)
		return !ok || v != kv.Value
	})
}

func (r *Recorder) measure(ctx context.Context, name string, value float64, set attribute.Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.measurements = append(r.measurements, Measurement{name, value, set, trace.SpanContextFromContext(ctx)})
}

func (r *Recorder) addInstrument(i Instrument) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.instruments[i.Name] = i
}

type meterProvider struct {
	embedded.MeterProvider
	r *Recorder
}

func (p meterProvider) Meter(name string, opts ...metric.MeterOption) metric.Meter {
	c := metric.NewMeterConfig(opts...)
	p.r.addScope(Scope{name, c.InstrumentationVersion(), c.SchemaURL()})
	return meter{r: p.r}
}

// meter records Int64Counters, Float64Histograms, and the observable gauges of both
// when Collect is called; other instruments do nothing.
type meter struct {
	noop.Meter
	r *Recorder
}

func (m meter) Int64Counter(name string, opts ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	c := metric.NewInt64CounterConfig(opts...)
	m.r.addInstrument(Instrument{Name: name, Unit: c.Unit(), Description: c.Description()})
	return counter{r: m.r, name: name}, nil
}

func (m meter) Float64Histogram(name string, opts ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	c := metric.NewFloat64HistogramConfig(opts...)
	m.r.addInstrument(Instrument{name, c.Unit(), c.Description(), c.ExplicitBucketBoundaries()})
	return histogram{r: m.r, name: name}, nil
}

type counter struct {
	noop.Int64Counter
	r    *Recorder
	name string
}

func (c counter) Enabled(context.Context) bool { return true }

func (c counter) Add(ctx context.Context, n int64, opts ...metric.AddOption) {
	config := metric.NewAddConfig(opts)
	c.r.measure(ctx, c.name, float64(n), config.Attributes())
}

type histogram struct {
	noop.Float64Histogram
	r    *Recorder
	name string
}

func (h histogram) Enabled(context.Context) bool { return true }

func (h histogram) Record(ctx context.Context, v float64, opts ...metric.RecordOption) {
	config := metric.NewRecordConfig(opts)
	h.r.measure(ctx, h.name, v, config.Attributes())
}
