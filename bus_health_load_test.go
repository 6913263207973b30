package bus_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/health"
)

// What counts are the latest calls, not those since the start.
func TestHealthOfTheLatestCalls(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(t *testing.T, b *bus.Bus) (send func(numbers []int)){
		"subscription": func(t *testing.T, b *bus.Bus) func([]int) {
			must(t, second(bus.Subscribe(b, "load.x", failOdd)))
			return func(numbers []int) { must(t, bus.PublishBatch(t.Context(), b, "load.x", numbers)) }
		},
		"consumer": func(t *testing.T, b *bus.Bus) func([]int) {
			st := declare(t, b, bus.StreamConfig{Name: "LOAD", Subjects: []string{"load.x"}})
			consume(t, st, "d", "load.x", failOdd, bus.Retry(bus.RetryPolicy{MaxAttempts: 1}))
			return func(numbers []int) {
				for _, n := range numbers {
					must(t, second(bus.PublishTo(t.Context(), st, "load.x", n)))
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				good, bad := make([]int, 1000), make([]int, 500)
				for i := range bad {
					bad[i] = 1
				}
				send := begin(t, b)
				for range 2 {
					send(good)
					synctest.Wait()
					healthy(t, b)
					send(bad)
					synctest.Wait()
					unwell(t, b.Health(t.Context()), health.Degraded, name, "load.x: 200 of 200 handler calls failed")
				}
				send(good)
				synctest.Wait()
				healthy(t, b)
			}, bus.WithLogger(silent()))
		})
	}
}

// A consumer that gets no messages is a warning, also when it has given up.
func TestHealthOfConsumersThatAreLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, js jetstream.JetStream){
		"the durable": func(t *testing.T, js jetstream.JetStream) { must(t, js.DeleteConsumer(t.Context(), "S", "d")) },
		"the stream":  func(t *testing.T, js jetstream.JetStream) { must(t, js.DeleteStream(t.Context(), "S")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				con := consume(t, st, "d", "S", ignore[int])
				healthy(t, b)
				lose(t, b.JetStream())
				<-con.Done()
				time.Sleep(time.Minute)
				unwell(t, b.Health(t.Context()), health.Degraded, "consumer", `stream "S"`, "consume as d", "deleted", "nobody here handles its messages")
				st = declare(t, b, bus.StreamConfig{Name: "S"})
				con = consume(t, st, "d", "S", ignore[int])
				healthy(t, b)
				must(t, con.Drain(t.Context()))
				healthy(t, b) // who ends it means it
			}, bus.WithLogger(silent()))
		})
	}
}

// A consumer is well again once messages can come back, also while none does.
func TestHealthAfterTheRetriesWereMadeAnew(t *testing.T) {
	t.Parallel()
	for name, opts := range inBothWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				consume(t, st, "d", "S", ignore[int], opts...)
				pass(time.Second)
				must(t, b.JetStream().DeleteStream(t.Context(), "S-retry"))
				pass(time.Millisecond)
				unwell(t, b.Health(t.Context()), health.Degraded, "consumer", "retries")
				pass(time.Minute)
				healthy(t, b)
			}, bus.WithLogger(silent()))
		})
	}
}

func TestHealthWhileTheBusStops(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		h, _, release := held[int](1)
		must(t, second(bus.Subscribe(b, "a", h)))
		publishRange(t, b, "a", 0, 1)
		closed := make(chan error, 1)
		go func() { closed <- b.Close() }()
		synctest.Wait()
		unwell(t, b.Health(t.Context()), health.Failed, "bus", "stopping")
		close(release)
		must(t, <-closed)
		unwell(t, b.Health(t.Context()), health.Failed, "connection", "closed")
	})
}

// What New returns with an error can be asked like any other.
func TestStatsAndHealthOfNoBus(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]*bus.Bus{"nil": nil, "zero": {}} {
		if s := b.Stats(); s.Published != 0 || s.Subscriptions != nil {
			t.Errorf("%s: %+v", name, s)
		}
		unwell(t, b.Health(context.Background()), health.Failed, "connection", "closed")
	}
	if s := bus.Stopping(nil); s != nil { //nolint:staticcheck // that is what it is about
		t.Error("a nil context is of a handler")
	}
	if got := bus.Subjects(nil, bus.Subject[int]("a")); len(got) != 2 || got[0] != "" {
		t.Errorf("got %q", got)
	}
	bus.Handle[int](nil, "a", ignore[int])
	bus.HandleOld(nil, "a", func(int) (int, error) { return 0, errors.New("no") }, ignore[int])
	b := bustest.New(t)
	_, err := b.Subscribe("a", nil)
	asError[*bus.OptionError](t, err, "mux is nil")
}
