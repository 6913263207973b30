package bus_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
)

func measured(r *oteltest.Recorder) bus.ConnectOption {
	return bus.WithMeterProvider(r.MeterProvider())
}

// What metrics say: how many, how long, and of what.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	bustest.Run(t, everything, observed(r)...)
	// Count, sum, attributes of each series.
	for name, want := range map[string][]string{
		"messaging.client.operation.duration": {
			"1 0 consumer.group.name=d destination.template=obs.store.* operation.name=ack operation.type=settle system=nats",
			"1 3 destination.template=obs.ask.* operation.name=request operation.type=send system=nats",
			"1 0 destination.template=obs.next.* operation.name=publish operation.type=send system=nats",
			"1 0 destination.template=obs.nobody.* error.type=_OTHER operation.name=request operation.type=send system=nats",
			"3 0 destination.template=obs.pub.* operation.name=publish operation.type=send system=nats",
			"1 0 destination.template=obs.store.* operation.name=store operation.type=send system=nats",
		},
		"messaging.client.sent.messages": {
			"1 1 destination.template=obs.ask.* operation.name=request system=nats",
			"1 1 destination.template=obs.next.* operation.name=publish system=nats",
			"1 1 destination.template=obs.nobody.* error.type=_OTHER operation.name=request system=nats",
			"3 3 destination.template=obs.pub.* operation.name=publish system=nats",
			"1 1 destination.template=obs.store.* operation.name=store system=nats",
		},
		"messaging.process.duration": {
			"1 3 consumer.group.name=obs destination.template=obs.ask.* operation.name=process system=nats",
			"1 2 consumer.group.name=workers destination.template=obs.pub.* operation.name=process system=nats",
			"2 4 consumer.group.name=workers destination.template=obs.pub.* error.type=_OTHER operation.name=process system=nats",
			"1 0 consumer.group.name=d destination.template=obs.store.* operation.name=process system=nats",
		},
		"messaging.client.consumed.messages": {
			"1 1 consumer.group.name=obs destination.template=obs.ask.* operation.name=process system=nats",
			"1 1 consumer.group.name=workers destination.template=obs.pub.* operation.name=process system=nats",
			"2 2 consumer.group.name=workers destination.template=obs.pub.* error.type=_OTHER operation.name=process system=nats",
			"1 1 consumer.group.name=d destination.template=obs.store.* operation.name=process system=nats",
		},
		"omnibus.messages.dropped":       nil,
		"omnibus.messages.redelivered":   nil,
		"omnibus.messages.dead_lettered": nil,
		"omnibus.connection.reconnects":  nil,
	} {
		sameSeries(t, r, name, want...)
		i, ok := r.Instrument(name)
		unit := map[bool]string{true: "s", false: "{message}"}[strings.HasSuffix(name, "duration")]
		if strings.HasSuffix(name, "reconnects") {
			unit = "{reconnect}"
		}
		if !ok || i.Unit != unit || i.Description == "" {
			t.Errorf("the instrument is %+v, want the unit %s", i, unit)
		}
	}
	for _, m := range r.Measurements("messaging.process.duration") {
		if !m.SpanContext.IsValid() { // else it would have no exemplar
			t.Errorf("%+v was measured outside its span", m)
		}
	}
}

// sameSeries compares what an instrument was given with want: count, sum and
// attributes of each series.
func sameSeries(t testing.TB, r *oteltest.Recorder, name string, want ...string) {
	t.Helper()
	counts, sums := map[string]int{}, map[string]float64{}
	for _, m := range r.Measurements(name) {
		key := attrs(m.Attributes.ToSlice())
		counts[key]++
		sums[key] += m.Value
	}
	var got []string
	for key, n := range counts {
		got = append(got, fmt.Sprintf("%d %v %s", n, sums[key], key))
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("%s is\n\t%s\nwant\n\t%s", name, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// A subject that At did not make is its own pattern. In a process of its own,
// because the patterns of other tests may match.
func TestDestinationOfASubjectWithoutAt(t *testing.T) {
	t.Parallel()
	if runAsChild(t) {
		return
	}
	r := oteltest.New()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		must(t, second(bus.Subscribe(b, "obs.*", ignore[int])))
		must(t, bus.Publish(t.Context(), b, "obs.literal", 1))
		must(t, bus.Publish(t.Context(), b, bus.Subject[int]("obs.literal.*").At("x"), 1))
		must(t, bus.Publish(t.Context(), b, "obs.literal.y", 1)) // as if At had made it
		synctest.Wait()
	}, observed(r)...)
	sameTree(t, `
			publish obs.literal (producer send)
				+ process obs.* (consumer process)
			publish obs.literal.* (producer send)
			publish obs.literal.* (producer send)
			`, r)
	s, _ := r.Span("publish obs.literal")
	if got := attrs(s.Attributes); got != "client.id=obs destination.name=obs.literal destination.template=obs.literal message.body.size=1 operation.name=publish operation.type=send system=nats" {
		t.Errorf("the span has %s", got)
	}
	sameSeries(t, r, "messaging.client.sent.messages",
		"1 1 destination.template=obs.literal operation.name=publish system=nats",
		"2 2 destination.template=obs.literal.* operation.name=publish system=nats")
}

// With metrics alone there are no spans, and the other way round.
func TestMetricsWithoutSpans(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	bustest.Run(t, everything, bus.WithName("obs"), bus.WithLogger(silent()), measured(r))
	if n := len(r.Spans()); n != 0 {
		t.Errorf("there are %d spans", n)
	}
	if n := r.Sum("messaging.client.sent.messages"); n != 7 {
		t.Errorf("%v messages were sent, want 7", n)
	}
	r = oteltest.New()
	bustest.Run(t, everything, bus.WithName("obs"), bus.WithLogger(silent()), traced(r))
	if n := len(r.Measurements("messaging.client.sent.messages")); n != 0 || len(r.Spans()) == 0 {
		t.Errorf("there are %d measurements and %d spans", n, len(r.Spans()))
	}
}

// Of what the conventions have no names for.
func TestMetricsOfOurOwn(t *testing.T) {
	t.Parallel()
	t.Run("dropped", func(t *testing.T) {
		t.Parallel()
		r := oteltest.New()
		bustest.Run(t, func(t *testing.T, b *bus.Bus) {
			h, _, release := held[int](100)
			sub, err := bus.Subscribe(b, obsPub, h, bus.PendingLimits(5, -1), bus.Queue("workers"))
			must(t, err)
			for range 2 { // the connection tells of the first time only
				must(t, bus.PublishBatch(t.Context(), b, obsPub.At("x"), make([]int, 20)))
				synctest.Wait()
			}
			close(release)
			must(t, sub.Drain(t.Context()))
			if n := b.Stats().Dropped; n < 34 || r.Sum("omnibus.messages.dropped") != float64(n) {
				t.Errorf("the metric says %v, the statistics %d", r.Sum("omnibus.messages.dropped"), n)
			}
		}, observed(r)...)
		m := r.Measurements("omnibus.messages.dropped")[0]
		if got := attrs(m.Attributes.ToSlice()); got != "consumer.group.name=workers destination.template=obs.pub.* system=nats" {
			t.Errorf("its attributes are %s", got)
		}
	})
	t.Run("redelivered", func(t *testing.T) {
		t.Parallel()
		r := oteltest.New()
		bustest.Run(t, func(t *testing.T, b *bus.Bus) {
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
			storeRange(t, st, "s", 0, 4)
			giveBack(t, b, "S", "d", 2)
			consume(t, st, "d", "s", func(_ context.Context, m *bus.Msg[int]) error {
				if m.Attempt < 3 {
					return errNo
				}
				return nil
			})
			time.Sleep(time.Minute)
		}, observed(r)...)
		sameSeries(t, r, "omnibus.messages.redelivered", "2 2 consumer.group.name=d destination.template=s system=nats")
	})
	t.Run("reconnects", func(t *testing.T) {
		t.Parallel()
		r := oteltest.New()
		record, events := recordEvents()
		b := bustest.New(t, append(observed(r), record)...)
		must(t, b.Conn().ForceReconnect())
		awaitEvent(t, events, event.Reconnected)
		sameSeries(t, r, "omnibus.connection.reconnects", "1 1 client.id=obs system=nats")
	})
}

// A program's subjects may have identifiers in them, and so have those on which
// the library keeps messages aside: of metrics neither makes many series.
func TestSeriesAreFew(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	const n = 50
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		consume(t, st, "d", obsStore, giveUp)
		must(t, second(bus.Respond(b, obsAsk, double)))
		for i := range n {
			id := fmt.Sprint("id-", i)
			must(t, bus.Publish(t.Context(), b, obsPub.At(id), i))
			must(t, second(bus.Request(t.Context(), b, obsAsk.At(id), i)))
			must(t, second(bus.PublishTo(t.Context(), st, obsStore.At(id), i)))
		}
		time.Sleep(time.Minute)
		if d := b.Stats().DeadLetters; d != n {
			t.Errorf("%d dead letters, want %d", d, n)
		}
	}, observed(r)...)
	series := map[string]bool{}
	for _, name := range []string{"messaging.client.operation.duration", "messaging.client.sent.messages", "messaging.process.duration", "messaging.client.consumed.messages"} {
		for _, m := range r.Measurements(name) {
			series[m.Attr("messaging.destination.template")] = true
		}
	}
	if len(series) > 6 {
		t.Errorf("there are %d destinations: %v", len(series), series)
	}
}

// Dead letters are counted by their cause.
func TestMetricOfDeadLetters(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		consume(t, st, "d", obsStore, giveUp)
		must(t, second(bus.PublishTo(t.Context(), st, obsStore.At("x"), 1)))
		must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[string](obsStore.At("x")), "no number")))
		time.Sleep(time.Minute)
	}, measured(r), bus.WithLogger(silent()))
	sameSeries(t, r, "omnibus.messages.dead_lettered",
		"1 1 consumer.group.name=d destination.template=obs.store.* omnibus.dead_letter.cause=malformed system=nats",
		"1 1 consumer.group.name=d destination.template=obs.store.* omnibus.dead_letter.cause=permanent system=nats")
}

// A redriven message fails after its old dead letter was removed. So the new dead letter does
// not replace that one, as the first attempt to store it expects. That is no error.
func TestMetricsOfARedrive(t *testing.T) {
	t.Parallel()
	const n = 3
	r := oteltest.New()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		consume(t, st, "d", obsStore, func(ctx context.Context, m *bus.Msg[int]) error {
			time.Sleep(time.Second)
			return giveUp(ctx, m)
		}, bus.KeyBySubject(), bus.Concurrency(n))
		for i := range n {
			must(t, second(bus.PublishTo(t.Context(), st, obsStore.At(strconv.Itoa(i)), i)))
		}
		time.Sleep(time.Minute)
		must(t, second(st.Redrive(t.Context(), bus.DeadFilter{})))
		time.Sleep(time.Minute)
		if failed := b.Stats().PublishFailed; failed != 0 {
			t.Errorf("%d messages count as failed", failed)
		}
	}, measured(r), bus.WithLogger(silent()))
	sent := r.Measurements("messaging.client.sent.messages")
	for _, m := range sent {
		if text := attrs(m.Attributes.ToSlice()); strings.Contains(text, "error.type") {
			t.Error(text)
		}
	}
	if want := n + n + n + 2*n; len(sent) != want { // published, dead letters, copies, and each second dead letter in two attempts
		t.Errorf("%d messages were sent, want %d", len(sent), want)
	}
}
