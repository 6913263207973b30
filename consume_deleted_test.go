package bus_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// Handlers that fail at the moment when their durable is deleted leave nothing in S-retry.
func TestDeletedWhileHandlersFail(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithLogger(silent()))
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	storeRange(t, st, "S", 0, 64)
	for range underRace(5, 20) {
		var failed atomic.Int64
		begun, release := make(chan struct{}, 64), make(chan struct{})
		c := consume(t, st, "d", "S", func(context.Context, *bus.Msg[int]) error {
			begun <- struct{}{}
			<-release
			if n := failed.Add(1); n > 8 {
				spin(time.Duration(n) * 50 * time.Microsecond)
			}
			return bus.RetryAfter(time.Hour, errNo)
		}, bus.Concurrency(64))
		for range 64 {
			receive(t, begun)
		}
		close(release)
		must(t, st.DeleteConsumer(t.Context(), "d"))
		wait(t, c.Done(), "the end of the consumer")
		if n := streamInfo(t, b, "S-retry").State.Msgs; n > 0 {
			t.Fatalf("S-retry has %d messages of a deleted durable", n)
		}
	}
}

// A consumer whose durable or stream the program itself deletes ends, and is not reported as stalled.
func TestDeletedByTheProgramItself(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(*testing.T, *bus.Stream) error{
		"durable": func(t *testing.T, st *bus.Stream) error { return st.DeleteConsumer(t.Context(), "d") },
		"stream":  func(t *testing.T, st *bus.Stream) error { return st.Delete(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				c := consume(t, st, "d", "S", ignore[int], bus.KeyBySubject())
				pass(time.Minute)
				must(t, remove(t, st))
				pass(time.Minute)
				receive(t, c.Done())
				asError[*bus.StreamError](t, c.Err(), "deleted")
				nothing(t, events)
			}, record)
		})
	}
}

// A consumer goes on to report what others do to its durable after the program has failed to delete it.
func TestDeletedByOthersAfterAFailure(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	home, guest := denyingBus(t, denied{publish: []string{"$JS.API.CONSUMER.DELETE.>", "$JS.API.STREAM.DELETE.>"}}, record)
	st := lookUp(t, guest, "S")
	consume(t, st, "d", "s.>", ignore[int])
	asError[*bus.SubjectError](t, st.DeleteConsumer(t.Context(), "d"), "$JS.API.CONSUMER.DELETE.S.d")
	asError[*bus.SubjectError](t, st.Delete(t.Context()), "$JS.API.STREAM.DELETE.S")
	must(t, home.JetStream().DeleteConsumer(t.Context(), "S", "d"))
	awaitEvent(t, events, event.ConsumerStalled)
}
