package telemetry_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
)

const (
	operationDuration = "messaging.client.operation.duration"
	processDuration   = "messaging.process.duration"
	sent              = "messaging.client.sent.messages"
	consumed          = "messaging.client.consumed.messages"
)

// metering returns a Telemetry with metrics only, and where they go.
func metering(t *testing.T) (*telemetry.Telemetry, *oteltest.Recorder) {
	t.Helper()
	r := oteltest.New()
	tel, err := telemetry.New(telemetry.Config{MeterProvider: r.MeterProvider(), BusName: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	return tel, r
}

func onlyMeasurement(t *testing.T, r *oteltest.Recorder, name string) oteltest.Measurement {
	t.Helper()
	ms := r.Measurements(name)
	if len(ms) != 1 {
		t.Fatalf("%s has %d measurements, want 1: %+v", name, len(ms), ms)
	}
	return ms[0]
}

func wantAttributes(t *testing.T, m oteltest.Measurement, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, kv := range m.Attributes.ToSlice() {
		got[string(kv.Key)] = kv.Value.String()
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s has attributes\n %v, want\n %v", m.Name, got, want)
	}
}

func TestInstrumentsAreAsTheConventionsWantThem(t *testing.T) {
	_, r := metering(t)
	bounds := []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
	for name, want := range map[string]oteltest.Instrument{
		operationDuration:               {Unit: "s", Bounds: bounds},
		processDuration:                 {Unit: "s", Bounds: bounds},
		sent:                            {Unit: "{message}"},
		consumed:                        {Unit: "{message}"},
		"omnibus.messages.dropped":      {Unit: "{message}"},
		"omnibus.messages.redelivered":  {Unit: "{message}"},
		"omnibus.connection.reconnects": {Unit: "{reconnect}"},
	} {
		got, ok := r.Instrument(name)
		if !ok || got.Unit != want.Unit || !slices.Equal(got.Bounds, want.Bounds) || got.Description == "" {
			t.Errorf("%s is %+v, want %+v", name, got, want)
		}
	}
}

func TestSendIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel, r := metering(t)
		_, s := tel.Send(bg, telemetry.Op{Name: telemetry.OpPublish, Subject: "a.1", Template: "a.*", Group: "g"})
		time.Sleep(250 * time.Millisecond)
		s.End(nil)
		d := onlyMeasurement(t, r, operationDuration)
		if d.Value != 0.25 {
			t.Errorf("took %v s, want 0.25", d.Value)
		}
		base := map[string]string{
			"messaging.system": "nats", "messaging.operation.name": "publish", "messaging.destination.template": "a.*",
		}
		n := onlyMeasurement(t, r, sent)
		wantAttributes(t, n, base)
		if n.Value != 1 {
			t.Errorf("sent %v messages, want 1", n.Value)
		}
		base["messaging.operation.type"] = "send"
		wantAttributes(t, d, base)
		if r.Measurements(consumed) != nil || r.Measurements(processDuration) != nil {
			t.Error("sending counts as consuming")
		}
	})
}

func TestProcessIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel, r := metering(t)
		_, s := tel.Process(bg, telemetry.Op{Subject: "a.1", Template: "a.*", Group: "billing"}, header{"traceparent": {parent}})
		time.Sleep(2 * time.Second)
		s.End(fmt.Errorf("billing: %w", &conflictError{}))
		want := map[string]string{
			"messaging.system": "nats", "messaging.operation.name": "process", "messaging.destination.template": "a.*",
			"messaging.consumer.group.name": "billing", "error.type": "telemetry_test.conflictError",
		}
		d := onlyMeasurement(t, r, processDuration)
		wantAttributes(t, d, want)
		wantAttributes(t, onlyMeasurement(t, r, consumed), want)
		if d.Value != 2 || r.Measurements(operationDuration) != nil {
			t.Errorf("took %v s, want 2; as operation: %v", d.Value, r.Measurements(operationDuration))
		}
	})
}

func TestSettleHasADurationOnly(t *testing.T) {
	tel, r := metering(t)
	_, s := tel.Settle(bg, telemetry.Op{Name: telemetry.OpAck, Template: "a", Group: "billing"})
	s.End(nil)
	wantAttributes(t, onlyMeasurement(t, r, operationDuration), map[string]string{
		"messaging.system": "nats", "messaging.operation.name": "ack", "messaging.operation.type": "settle",
		"messaging.destination.template": "a", "messaging.consumer.group.name": "billing",
	})
	if r.Sum(sent)+r.Sum(consumed) != 0 {
		t.Error("settling counts messages")
	}
}

func TestOwnCounters(t *testing.T) {
	tel, r := metering(t)
	tel.Dropped("a.*", "", 5)
	tel.Redelivered("a.*", "billing", 2)
	tel.Reconnected()
	d := onlyMeasurement(t, r, "omnibus.messages.dropped")
	wantAttributes(t, d, map[string]string{"messaging.system": "nats", "messaging.destination.template": "a.*"})
	e := onlyMeasurement(t, r, "omnibus.messages.redelivered")
	wantAttributes(t, e, map[string]string{
		"messaging.system": "nats", "messaging.destination.template": "a.*", "messaging.consumer.group.name": "billing",
	})
	c := onlyMeasurement(t, r, "omnibus.connection.reconnects")
	wantAttributes(t, c, map[string]string{"messaging.system": "nats", "messaging.client.id": "shop"})
	if d.Value != 5 || e.Value != 2 || c.Value != 1 {
		t.Errorf("dropped %v, redelivered %v, reconnected %v", d.Value, e.Value, c.Value)
	}
}

func TestMeasurementsCarryTheirSpan(t *testing.T) {
	r := oteltest.New()
	tel, err := telemetry.New(telemetry.Config{TracerProvider: r.TracerProvider(), MeterProvider: r.MeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, s := tel.Send(bg, telemetry.Op{Template: "a"})
	s.End(nil)
	if got := onlyMeasurement(t, r, sent).SpanContext; !got.Equal(trace.SpanContextFromContext(ctx)) {
		t.Errorf("span context %v", got)
	}
}

// Subjects made from IDs are bad practice, yet must neither fail nor pile up.
func TestManyTemplatesStillWork(t *testing.T) {
	tel, r := metering(t)
	for i := range 3000 {
		_, s := tel.Send(bg, telemetry.Op{Template: fmt.Sprint("a.", i)})
		s.End(nil)
	}
	if n := r.Sum(sent); n != 3000 {
		t.Errorf("sent %v", n)
	}
	if n := r.Sum(sent, attribute.String("messaging.destination.template", "a.2999")); n != 1 {
		t.Errorf("sent to the last: %v", n)
	}
}

type failingMeters struct{ noop.MeterProvider }

type failingMeter struct{ noop.Meter }

var errMeter = errors.New("no more instruments")

func (failingMeters) Meter(string, ...metric.MeterOption) metric.Meter { return failingMeter{} }

func (failingMeter) Int64Counter(string, ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return noop.Int64Counter{}, errMeter
}

func TestNewReportsTheMetersErrors(t *testing.T) {
	tel, err := telemetry.New(telemetry.Config{MeterProvider: failingMeters{}})
	if tel != nil || !errors.Is(err, errMeter) {
		t.Errorf("got %v, %v", tel, err)
	}
}
