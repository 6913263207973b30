package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/telemetry/oteltest"
)

// sameLag compares what Stats says of each consumer, and what the server says, with
// how many messages are not done and when the oldest was stored.
func sameLag(t testing.TB, b *bus.Bus, con *bus.Consumer, messages int, oldest time.Time) {
	t.Helper()
	age := time.Duration(0)
	if messages > 0 {
		age = time.Since(oldest)
	}
	for _, s := range b.Stats().Subscriptions {
		if s.Lag != messages || s.OldestAge != age {
			t.Errorf("after %v Stats says %d, %v old; want %d, %v", time.Since(oldest), s.Lag, s.OldestAge, messages, age)
		}
	}
	l, err := con.Lag(t.Context())
	must(t, err)
	if l.Waiting+l.Unfinished != messages || messages > 0 && !l.Oldest.Equal(oldest) || messages == 0 && !l.Oldest.IsZero() {
		t.Errorf("Lag says %+v, want %d since %v", l, messages, oldest)
	}
}

// How far a consumer is behind is known at once where it works alone.
func TestLag(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		handle, began, release := held[int](1000)
		con := consume(t, st, "d", "s.a", handle)
		pass(time.Second)
		sameLag(t, b, con, 0, time.Time{})
		oldest := time.Now()
		storeRange(t, st, "s.b", 0, 10) // not its
		storeRange(t, st, "s.a", 0, 100)
		receive(t, began)
		pass(15 * time.Second)
		sameLag(t, b, con, 100, oldest)
		pass(time.Hour)
		storeRange(t, st, "s.a", 0, 50)
		pass(15 * time.Second)
		sameLag(t, b, con, 150, oldest)
		close(release)
		pass(15 * time.Second)
		sameLag(t, b, con, 0, time.Time{})
	})
}

// What other members have is known within the time that the documentation says, also
// where this one has nothing; and what nobody is sent.
func TestLagOfSeveralMembers(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		handle, began, release := held[int](1000)
		con := consume(t, st, "d", "s", handle)
		consume(t, st, "d", "s", handle)
		oldest := time.Now()
		storeRange(t, st, "s", 0, 2)
		receive(t, began) // one member may have both
		pass(2 * time.Minute)
		sameLag(t, b, con, 2, oldest)
		close(release)
		pass(2 * time.Minute)
		sameLag(t, b, con, 0, time.Time{})

		_, err := b.JetStream().PauseConsumer(t.Context(), "S", "d", time.Now().Add(24*time.Hour))
		must(t, err)
		pass(time.Minute)
		oldest = time.Now()
		storeRange(t, st, "s", 0, 7)
		pass(2 * time.Minute)
		sameLag(t, b, con, 7, oldest)
	})
}

func TestLagMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	con := consume(t, st, "d", "s", ignore[int])
	var none *bus.Consumer
	var noCtx context.Context
	asError[*bus.OptionError](t, second(none.Lag(t.Context())), "consumer")
	asError[*bus.OptionError](t, second(con.Lag(noCtx)), "ctx")
	must(t, con.Drain(t.Context()))
	must(t, b.JetStream().DeleteConsumer(t.Context(), "S", "d"))
	asError[*bus.StreamError](t, second(con.Lag(t.Context())), `"S"`)
	must(t, b.JetStream().DeleteStream(t.Context(), "S"))
	isError(t, second(con.Lag(t.Context())), bus.ErrStreamNotFound)
	must(t, b.Close())
	isError(t, second(con.Lag(t.Context())), bus.ErrClosed)
}

// Metrics say the same as Stats, while the bus lives.
func TestMetricsOfLag(t *testing.T) {
	t.Parallel()
	r := oteltest.New()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: bus.Subjects(obsStore)})
		handle, began, release := held[int](10)
		consume(t, st, "d", obsStore, handle)
		storeRange(t, st, obsStore.At("x"), 0, 3)
		receive(t, began)
		pass(20 * time.Second)
		r.Collect()
		close(release)
	}, measured(r))
	const series = "consumer.group.name=d destination.template=obs.store.* omnibus.stream.name=S system=nats"
	sameSeries(t, r, "omnibus.consumer.lag", "1 3 "+series)
	sameSeries(t, r, "omnibus.consumer.oldest_message.age", "1 20 "+series)
	if n := r.Collect(); n != 0 {
		t.Errorf("%d callbacks are left", n)
	}
	for name, unit := range map[string]string{"omnibus.consumer.lag": "{message}", "omnibus.consumer.oldest_message.age": "s"} {
		if i, ok := r.Instrument(name); !ok || i.Unit != unit || i.Description == "" {
			t.Errorf("the instrument is %+v", i)
		}
	}
}

// Health tells of a consumer that is behind where it was told how old is too old.
func TestHealthOfLag(t *testing.T) {
	t.Parallel()
	for _, most := range []time.Duration{0, time.Minute} {
		bustest.Run(t, func(t *testing.T, b *bus.Bus) {
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
			handle, began, release := held[int](10)
			consume(t, st, "d", "s", handle)
			storeRange(t, st, "s", 0, 3)
			receive(t, began)
			pass(time.Minute)
			healthy(t, b)
			pass(time.Second)
			if most > 0 {
				unwell(t, b.Health(t.Context()), health.Degraded, "consumer", "d of stream S", "3 messages behind", "1m1s old")
			} else {
				healthy(t, b)
			}
			close(release)
			pass(time.Second)
			healthy(t, b)
		}, bus.WithHealthThresholds(health.Thresholds{SlowRTT: time.Hour, OldestAge: most}))
	}
}

// The oldest message of several routes is found, and of no other subject.
func TestLagOfSeveralRoutes(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		for _, subject := range []bus.Subject[int]{"s.other", "s.b.x", "s.a"} {
			storeRange(t, st, subject, 0, 1)
			pass(time.Hour)
		}
		var m bus.Mux
		block := make(chan struct{})
		h := func(context.Context, *bus.Msg[int]) error { <-block; return nil }
		bus.Handle(&m, bus.Subject[int]("s.a"), h)
		bus.Handle(&m, bus.Subject[int]("s.b.*"), h)
		con := consumeMux(t, st, "d", &m)
		pass(time.Minute)
		if l, err := con.Lag(t.Context()); err != nil || l.Unfinished != 2 || time.Since(l.Oldest) != 2*time.Hour+time.Minute {
			t.Errorf("the lag is %+v, %v", l, err)
		}
		if s := b.Stats().Subscriptions[0]; s.Lag != 2 || s.OldestAge != 2*time.Hour+time.Minute {
			t.Errorf("the statistics are %+v", s)
		}
		close(block)
	}, bus.WithLogger(silent()))
}
