package oteltest

import (
	"context"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// Collect calls all callbacks for observable gauges, and returns their number.
func (r *Recorder) Collect() int {
	r.mu.Lock()
	callbacks := make([]metric.Callback, 0, len(r.callbacks))
	for _, f := range r.callbacks {
		callbacks = append(callbacks, f)
	}
	r.mu.Unlock()
	for _, f := range callbacks {
		_ = f(context.Background(), observer{r: r})
	}
	return len(callbacks)
}

func (m meter) Int64ObservableGauge(name string, opts ...metric.Int64ObservableGaugeOption) (metric.Int64ObservableGauge, error) {
	c := metric.NewInt64ObservableGaugeConfig(opts...)
	m.r.addInstrument(Instrument{Name: name, Unit: c.Unit(), Description: c.Description()})
	return intGauge{name: name}, nil
}

func (m meter) Float64ObservableGauge(name string, opts ...metric.Float64ObservableGaugeOption) (metric.Float64ObservableGauge, error) {
	c := metric.NewFloat64ObservableGaugeConfig(opts...)
	m.r.addInstrument(Instrument{Name: name, Unit: c.Unit(), Description: c.Description()})
	return floatGauge{name: name}, nil
}

func (m meter) RegisterCallback(f metric.Callback, _ ...metric.Observable) (metric.Registration, error) {
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	if m.r.callbacks == nil {
		m.r.callbacks = make(map[int]metric.Callback)
	}
	m.r.registered++
	m.r.callbacks[m.r.registered] = f
	return registration{r: m.r, id: m.r.registered}, nil
}

// registration is a registered callback.
type registration struct {
	noop.Registration
	r  *Recorder
	id int
}

func (g registration) Unregister() error {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	delete(g.r.callbacks, g.id)
	return nil
}

// intGauge is an observable gauge of integers.
type intGauge struct {
	noop.Int64ObservableGauge
	name string
}

// floatGauge is an observable gauge of floats.
type floatGauge struct {
	noop.Float64ObservableGauge
	name string
}

// observer records the values of gauges.
type observer struct {
	noop.Observer
	r *Recorder
}

func (o observer) ObserveInt64(g metric.Int64Observable, n int64, opts ...metric.ObserveOption) {
	if g, ok := g.(intGauge); ok {
		config := metric.NewObserveConfig(opts)
		o.r.measure(context.Background(), g.name, float64(n), config.Attributes())
	}
}

func (o observer) ObserveFloat64(g metric.Float64Observable, v float64, opts ...metric.ObserveOption) {
	if g, ok := g.(floatGauge); ok {
		config := metric.NewObserveConfig(opts)
		o.r.measure(context.Background(), g.name, v, config.Attributes())
	}
}
