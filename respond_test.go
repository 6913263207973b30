package bus_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// Whoever asks chooses the reply subject. The answer must not use the rights of the
// responder for what the requester may not do itself.
func TestRespondOnlyWhereAnAnswerIsAllowed(t *testing.T) {
	t.Parallel()
	events := make(chan event.Event, 10)
	b := bustest.New(t, anyPort(), bus.WithName("shop"), bus.WithEvents(func(e event.Event) { events <- e }))
	st := declare(t, b, bus.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[string]("orders.x"), "an order")))
	must(t, second(bus.Respond(b, "quote", func(_ context.Context, m *bus.Msg[int]) (int, error) { return m.Data, nil })))
	nc := rawClient(t, b)
	for _, reply := range []string{"$JS.API.STREAM.DELETE.ORDERS", "orders.y", "$SYS.REQ.SERVER.PING"} {
		for subject, data := range map[string]string{"quote": "1", "$SRV.PING": ""} {
			must(t, nc.PublishRequest(subject, reply, []byte(data)))
			if e := receive(t, events); e.Kind != event.HandlerFailed || e.Subject != subject || !strings.Contains(fmt.Sprint(e.Err), "not answered") {
				t.Errorf("a request to %s with the reply subject %s made %+v", subject, reply, e)
			}
		}
		must(t, nc.PublishRequest("quote", reply, []byte("no number"))) // this error would be the answer
		receive(t, events)
		receive(t, events)
	}
	info, err := b.JetStream().Stream(t.Context(), "ORDERS")
	must(t, err)
	if n := info.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("the stream has %d messages, want 1", n)
	}
	if v, err := bus.Request(t.Context(), b, bus.Endpoint[int, int]("quote"), 5); v != 5 || err != nil {
		t.Errorf("another request got %d, %v", v, err)
	}
}
