package bus_test

import (
	"context"
	"fmt"

	"github.com/omnibus-go/bus"
)

type Cancelled struct{ Reason string }

// A Mux shares one subscription out to handlers of several types and keeps the
// order between them. The most specific pattern wins.
func ExampleMux() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	var mux bus.Mux
	bus.Handle(&mux, "orders.*.placed", func(_ context.Context, m *bus.Msg[Order]) error {
		fmt.Println("placed", m.Data.ID)
		return nil
	})
	bus.Handle(&mux, "orders.*.cancelled", func(_ context.Context, m *bus.Msg[Cancelled]) error {
		fmt.Println("cancelled because", m.Data.Reason)
		return nil
	})
	bus.Handle(&mux, "orders.>", func(_ context.Context, m *bus.Msg[[]byte]) error {
		fmt.Println("something else on", m.Subject)
		return nil
	})
	if _, err := b.Subscribe("orders.>", &mux); err != nil {
		panic(err)
	}
	ctx := context.Background()
	_ = bus.Publish(ctx, b, "orders.eu.placed", Order{ID: "o-1"})
	_ = bus.Publish(ctx, b, "orders.eu.paid", "in cash")
	_ = bus.Publish(ctx, b, "orders.eu.cancelled", Cancelled{Reason: "too late"})
	if err := b.Close(); err != nil {
		panic(err)
	}
	// Output:
	// placed o-1
	// something else on orders.eu.paid
	// cancelled because too late
}

type OrderV1 struct{ ID, Euros int }

// HandleOld makes messages of an older form new, so that one handler does for both.
func ExampleHandleOld() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	handle := func(_ context.Context, m *bus.Msg[Order]) error {
		fmt.Println("order", m.Data.ID, "of", m.Data.Cents, "cents")
		return nil
	}
	var mux bus.Mux
	bus.Handle(&mux, "orders.placed.v2", handle)
	bus.HandleOld(&mux, "orders.placed.v1", func(o OrderV1) (Order, error) {
		return Order{ID: fmt.Sprint("o-", o.ID), Cents: 100 * o.Euros}, nil
	}, handle)
	if _, err := b.Subscribe("orders.placed.*", &mux); err != nil {
		panic(err)
	}
	_ = bus.Publish(context.Background(), b, "orders.placed.v1", OrderV1{ID: 1, Euros: 9})
	_ = bus.Publish(context.Background(), b, "orders.placed.v2", Order{ID: "o-2", Cents: 950})
	if err := b.Close(); err != nil {
		panic(err)
	}
	// Output:
	// order o-1 of 900 cents
	// order o-2 of 950 cents
}
