package bus_test

import (
	"context"
	"fmt"

	"github.com/omnibus-go/bus"
)

// Lag says how far a consumer is behind. Stats has the same figures as they were known
// lately.
func ExampleConsumer_Lag() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	ctx := context.Background()
	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: bus.Subjects(OrderPlaced)})
	if err != nil {
		panic(err)
	}
	for _, id := range []string{"o-1", "o-2", "o-3"} {
		if _, err := bus.PublishTo(ctx, orders, OrderPlaced.At("eu"), Order{ID: id}); err != nil {
			panic(err)
		}
	}
	began, release := make(chan string, 3), make(chan struct{})
	billing, err := bus.Consume(ctx, orders, "billing", OrderPlaced, func(_ context.Context, m *bus.Msg[Order]) error {
		began <- m.Data.ID
		<-release
		return nil
	})
	if err != nil {
		panic(err)
	}
	fmt.Println("billing", <-began)
	lag, err := billing.Lag(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Println("behind by", lag.Waiting+lag.Unfinished)
	close(release)
	// Output:
	// billing o-1
	// behind by 3
}
