package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// Consumer is the lag of a durable consumer.
type Consumer struct {
	Template, Stream, Group string
	Lag                     int           // number of messages that are not finished
	OldestAge               time.Duration // age of the oldest of those messages
}

// ObserveConsumers calls read whenever metrics are collected, until stop is called.
func (t *Telemetry) ObserveConsumers(read func() []Consumer) (stop func(), err error) {
	if t == nil || t.metrics == nil {
		return func() {}, nil
	}
	i := t.metrics
	registration, err := i.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, c := range read() {
			kv := baseAttributes(seriesKey{template: c.Template, group: c.Group})
			attributes := metric.WithAttributes(appendString(kv, keyStream, c.Stream)...)
			o.ObserveInt64(i.lag, int64(c.Lag), attributes)
			o.ObserveFloat64(i.oldestAge, c.OldestAge.Seconds(), attributes)
		}
		return nil
	}, i.lag, i.oldestAge)
	if err != nil {
		return nil, err
	}
	return func() { _ = registration.Unregister() }, nil
}
