package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
)

// The owner counts an outcome of another process, which gets no reply. That process reports that
// the outcome is unknown, and not that it does not count. Nobody handles the message again.
func TestOutcomeWhoseReplyIsLost(t *testing.T) {
	t.Parallel()
	b, home, r, events := remote(t)
	here := declare(t, home, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	there, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.AckWait(3 * time.Second)}
	busy, free := make(chan struct{}), make(chan struct{})
	storeRange(t, here, "s.first", 0, 1)
	consume(t, here, "d", "s.*", func(context.Context, *bus.Msg[int]) error {
		select {
		case <-busy:
			t.Error("a message was handled again")
		default:
			close(busy)
			<-free
		}
		return nil
	}, opts...)
	wait(t, busy, "the owner's handler")
	consume(t, there, "d", "s.*", func(context.Context, *bus.Msg[int]) error {
		r.deaf.Store(true)
		return nil
	}, opts...)
	storeRange(t, here, "s.second", 0, 1)
	isError(t, nextEvent(t, events, event.SettlementRefused).Err, bus.ErrUnknownOutcome, "the outcome may count or not")
	r.deaf.Store(false)
	close(free)
	awaitAll(t, home, "S", "d")
}
