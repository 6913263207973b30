package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
)

var published = telemetry.Op{Name: telemetry.OpPublish, Subject: "a.1", Template: "a.*", MessageID: "m", Size: 10}

// message does all that happens to one message.
func message(ctx context.Context, tel *telemetry.Telemetry, h header, err error) {
	sent, s := tel.Send(ctx, published)
	h = tel.Inject(sent, h)
	s.End(err)
	handled, p := tel.Process(ctx, published, h)
	p.End(err)
	_, k := tel.Settle(handled, published)
	k.End(err)
}

func TestOffDoesNothing(t *testing.T) {
	tel, err := telemetry.New(telemetry.Config{BusName: "shop"})
	if tel != nil || err != nil {
		t.Fatalf("got %v, %v", tel, err)
	}
	ctx := context.WithValue(bg, t, 1)
	h := header{"traceparent": {parent}}
	for name, begin := range map[string]func() (context.Context, telemetry.Span){
		"send":    func() (context.Context, telemetry.Span) { return tel.Send(ctx, published) },
		"process": func() (context.Context, telemetry.Span) { return tel.Process(ctx, published, h) },
		"settle":  func() (context.Context, telemetry.Span) { return tel.Settle(ctx, published) },
	} {
		got, s := begin()
		if got != ctx {
			t.Errorf("%s changed the context", name)
		}
		s.End(nil)
		s.End(errors.New("x"))
	}
	tel.Dropped("a", "", 1)
	tel.Redelivered("a", "b", 1)
	tel.Reconnected()
	telemetry.Span{}.End(nil)
}

// sampledOut is a tracer whose spans do not record and which allocates nothing,
// so that what is allocated is ours.
type sampledOut struct{ tracenoop.Tracer }

func (sampledOut) Start(ctx context.Context, _ string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	return ctx, tracenoop.Span{}
}

type sampledOutProvider struct{ tracenoop.TracerProvider }

func (sampledOutProvider) Tracer(string, ...trace.TracerOption) trace.Tracer { return sampledOut{} }

func TestAllocations(t *testing.T) {
	var off *telemetry.Telemetry
	silent, err := telemetry.New(telemetry.Config{TracerProvider: sampledOutProvider{}, BusName: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	metered, err := telemetry.New(telemetry.Config{MeterProvider: metricnoop.NewMeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tel  *telemetry.Telemetry
		most float64 // one for each operation that is observed
	}{"off": {off, 0}, "sampled out": {silent, 0}, "metrics": {metered, 3}} {
		t.Run(name, func(t *testing.T) {
			if n := testing.AllocsPerRun(200, func() {
				message(bg, c.tel, nil, nil)
				c.tel.Dropped("a", "", 1)
			}); n > c.most {
				t.Errorf("a message allocates %v times, want %v", n, c.most)
			}
		})
	}
}

func TestConcurrentUse(t *testing.T) {
	r := oteltest.New()
	tel, err := telemetry.New(telemetry.Config{TracerProvider: r.TracerProvider(), MeterProvider: r.MeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	const workers, each = 8, 100
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				op := telemetry.Op{Template: fmt.Sprint("a.", i%20), Group: fmt.Sprint(w % 2)}
				ctx, s := tel.Send(bg, op)
				h := tel.Inject(ctx, nil)
				s.End(nil)
				_, p := tel.Process(bg, op, h)
				p.End([]error{nil, errors.New("x")}[i%2])
				tel.Dropped("a", "", 1)
				tel.Redelivered("a", "", 1)
				tel.Reconnected()
			}
		})
	}
	wg.Wait()
	const total = workers * each
	if n := r.Sum(sent); n != total {
		t.Errorf("sent %v, want %d", n, total)
	}
	if n := r.Sum(consumed); n != total {
		t.Errorf("consumed %v, want %d", n, total)
	}
	if n := len(r.Spans()); n != 2*total || r.Open() != 0 {
		t.Errorf("%d spans, %d open, want %d", n, r.Open(), 2*total)
	}
}

func BenchmarkMessage(b *testing.B) {
	silent, _ := telemetry.New(telemetry.Config{TracerProvider: sampledOutProvider{}})
	metered, _ := telemetry.New(telemetry.Config{MeterProvider: metricnoop.NewMeterProvider()})
	for _, c := range []struct {
		name string
		tel  *telemetry.Telemetry
	}{{"off", nil}, {"sampled out", silent}, {"metrics", metered}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				message(bg, c.tel, nil, nil)
			}
		})
	}
}

// What a publish pays when nobody looks.
func BenchmarkSendOff(b *testing.B) {
	var tel *telemetry.Telemetry
	subject := fmt.Sprint("a.", 1)
	b.ReportAllocs()
	for b.Loop() {
		ctx, s := tel.Send(bg, telemetry.Op{Name: telemetry.OpPublish, Subject: subject, Template: "a.*", Size: 10})
		tel.Inject(ctx, nil)
		s.End(nil)
	}
}
