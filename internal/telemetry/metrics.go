package telemetry

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// durationBounds are the bucket boundaries in seconds that the conventions recommend for both
// durations.
var durationBounds = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}

// instruments are the metrics of one bus. Safe for concurrent use.
type instruments struct {
	operation metric.Float64Histogram
	process   metric.Float64Histogram
	sent      metric.Int64Counter
	consumed  metric.Int64Counter

	// The conventions do not have these.
	dropped     metric.Int64Counter
	redelivered metric.Int64Counter
	dead        metric.Int64Counter
	reconnects  metric.Int64Counter

	meter     metric.Meter // for the gauges
	lag       metric.Int64ObservableGauge
	oldestAge metric.Float64ObservableGauge
}

// newInstruments makes the instruments. It returns the errors of the meter.
func newInstruments(m metric.Meter) (*instruments, error) {
	b := builder{meter: m}
	i := &instruments{
		operation:   b.seconds("messaging.client.operation.duration", "Duration of messaging operation initiated by a producer or consumer client."),
		process:     b.seconds("messaging.process.duration", "Duration of processing operation."),
		sent:        b.counter("messaging.client.sent.messages", "{message}", "Number of messages producer attempted to send to the broker."),
		consumed:    b.counter("messaging.client.consumed.messages", "{message}", "Number of messages that were delivered to the application."),
		dropped:     b.counter("omnibus.messages.dropped", "{message}", "Number of messages lost because a handler was too slow."),
		redelivered: b.counter("omnibus.messages.redelivered", "{message}", "Number of messages that were delivered again."),
		dead:        b.counter("omnibus.messages.dead_lettered", "{message}", "Number of messages that a consumer gave up and kept as dead letters."),
		reconnects:  b.counter("omnibus.connection.reconnects", "{reconnect}", "Number of times the connection was lost and won back."),
	}
	i.meter = m
	i.lag, i.oldestAge = b.consumerGauges()
	return i, errors.Join(b.errs...)
}

// builder makes instruments and collects the errors.
type builder struct {
	meter metric.Meter
	errs  []error
}

// seconds makes a histogram of durations.
func (b *builder) seconds(name, description string) metric.Float64Histogram {
	h, err := b.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description),
		metric.WithExplicitBucketBoundaries(durationBounds...))
	if err != nil {
		b.errs = append(b.errs, err)
	}
	return h
}

// counter makes a counter.
func (b *builder) counter(name, unit, description string) metric.Int64Counter {
	c, err := b.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
	if err != nil {
		b.errs = append(b.errs, err)
	}
	return c
}

// consumerGauges makes the gauges of ObserveConsumers.
func (b *builder) consumerGauges() (metric.Int64ObservableGauge, metric.Float64ObservableGauge) {
	lag, err := b.meter.Int64ObservableGauge("omnibus.consumer.lag", metric.WithUnit("{message}"),
		metric.WithDescription("Number of messages of the stream that the consumer has not finished."))
	oldest, err2 := b.meter.Float64ObservableGauge("omnibus.consumer.oldest_message.age", metric.WithUnit("s"),
		metric.WithDescription("Age of the oldest message that the consumer has not finished."))
	b.errs = append(b.errs, err, err2)
	return lag, oldest
}

// record records the duration and the message of o. class is its error.type, empty for success.
func (i *instruments) record(o *operation, took time.Duration, class string) {
	duration, count := o.series.duration, o.series.count
	if class != "" {
		duration = []metric.RecordOption{o.series.durationAttributes(class)}
		count = []metric.AddOption{o.series.countAttributes(class)}
	}
	histogram, counter := i.operation, metric.Int64Counter(nil)
	switch o.series.typ {
	case opSend:
		counter = i.sent
	case opProcess:
		histogram, counter = i.process, i.consumed
	}
	histogram.Record(o.ctx, took.Seconds(), duration...)
	if counter != nil {
		counter.Add(o.ctx, 1, count...)
	}
}

// Dropped counts n messages to template that were dropped because the queue of the handler was full.
// group is its queue group, or empty.
func (t *Telemetry) Dropped(template, group string, n int64) {
	if t == nil || t.metrics == nil {
		return
	}
	t.addCount(t.metrics.dropped, template, group, n)
}

// Redelivered counts n messages to template that were delivered to the durable group before.
func (t *Telemetry) Redelivered(template, group string, n int64) {
	if t == nil || t.metrics == nil {
		return
	}
	t.addCount(t.metrics.redelivered, template, group, n)
}

// DeadLettered counts a message to template that the durable group stored as a dead letter. cause is
// the reason.
func (t *Telemetry) DeadLettered(template, group, cause string) {
	if t == nil || t.metrics == nil {
		return
	}
	s := t.series(seriesKey{typ: opCounting, template: template, group: group})
	t.metrics.dead.Add(context.Background(), 1, metric.WithAttributes(append(s.base[:len(s.base):len(s.base)], keyCause.String(cause))...))
}

// Reconnected counts one reconnect.
func (t *Telemetry) Reconnected() {
	if t == nil || t.metrics == nil {
		return
	}
	kv := appendString(nil, keyClientID, t.busName)
	t.metrics.reconnects.Add(context.Background(), 1, metric.WithAttributes(append(kv, systemNATS)...))
}

// addCount adds n to a counter.
func (t *Telemetry) addCount(c metric.Int64Counter, template, group string, n int64) {
	s := t.series(seriesKey{typ: opCounting, template: template, group: group})
	c.Add(context.Background(), n, s.count...)
}
