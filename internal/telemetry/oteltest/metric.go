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

// Instrument is an instrument of the meter.
type Instrument struct {
	Name, Unit, Description string
	Bounds                  []float64 // recommended bucket boundaries of a histogram
}

// Measurement is one value of an instrument.
type Measurement struct {
	Name        string // of the instrument
	Value       float64
	Attributes  attribute.Set
	SpanContext trace.SpanContext // of the context of the measurement
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

// Measurements returns the measurements of the instrument with that name, in order. If attributes are
// given, it returns only measurements that have all of them.
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

// Sum returns the sum of the values of Measurements, which is the value of a counter.
func (r *Recorder) Sum(name string, with ...attribute.KeyValue) float64 {
	var sum float64
	for _, m := range r.Measurements(name, with...) {
		sum += m.Value
	}
	return sum
}

// hasAll reports whether set has all attributes of with.
func hasAll(set attribute.Set, with []attribute.KeyValue) bool {
	return !slices.ContainsFunc(with, func(kv attribute.KeyValue) bool {
		v, ok := set.Value(kv.Key)
		return !ok || v != kv.Value
	})
}

// measure records a measurement.
func (r *Recorder) measure(ctx context.Context, name string, value float64, set attribute.Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.measurements = append(r.measurements, Measurement{name, value, set, trace.SpanContextFromContext(ctx)})
}

// addInstrument records an instrument.
func (r *Recorder) addInstrument(i Instrument) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.instruments[i.Name] = i
}

// meterProvider makes meters that record.
type meterProvider struct {
	embedded.MeterProvider
	r *Recorder
}

func (p meterProvider) Meter(name string, opts ...metric.MeterOption) metric.Meter {
	c := metric.NewMeterConfig(opts...)
	p.r.addScope(Scope{name, c.InstrumentationVersion(), c.SchemaURL()})
	return meter{r: p.r}
}

// meter makes Int64Counters, Float64Histograms and observable gauges that record. Gauges record when
// Collect is called. Other instruments do nothing.
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

// counter records what is added.
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

// histogram records each value.
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
