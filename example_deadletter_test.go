package bus_test

import (
	"context"
	"fmt"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
)

// A message that no handler can take as it is goes back to its consumer with another
// payload.
func ExampleRedriveAs() {
	dead := make(chan event.Event, 1)
	b, err := bus.New(bus.WithEvents(func(e event.Event) {
		if e.Kind == event.DeadLetter {
			dead <- e
		}
	}))
	if err != nil {
		panic(err)
	}
	defer b.Close()
	ctx := context.Background()
	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: bus.Subjects(OrderPlaced)})
	if err != nil {
		panic(err)
	}
	billed := make(chan string)
	_, err = bus.Consume(ctx, orders, "billing", OrderPlaced, func(_ context.Context, m *bus.Msg[Order]) error {
		billed <- m.Data.ID
		return nil
	})
	if err != nil {
		panic(err)
	}
	broken := bus.Subject[[]byte](OrderPlaced.At("eu"))
	if _, err := bus.PublishTo(ctx, orders, broken, []byte(`{"ID":"o-1"`), bus.WithHeader("Shop", "north")); err != nil {
		panic(err)
	}
	<-dead
	filter := bus.DeadFilter{Durable: "billing", Header: bus.Header{"Shop": {"north"}}}
	n, err := orders.DeadCount(ctx, filter)
	if err != nil {
		panic(err)
	}
	fmt.Println("dead letters:", n)
	for dead, err := range orders.DeadLetters(ctx, filter) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s: %s\n", dead.Cause, dead.Data)
		if err := bus.RedriveAs(ctx, dead, Order{ID: "o-1"}); err != nil {
			panic(err)
		}
	}
	fmt.Println("billed:", <-billed)
	// Output:
	// dead letters: 1
	// malformed: {"ID":"o-1"
	// billed: o-1
}
