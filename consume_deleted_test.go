package bus_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
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
