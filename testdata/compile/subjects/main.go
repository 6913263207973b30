// Subjects and endpoints are constants that carry their types.
package main

import (
	"context"

	"github.com/omnibus-go/bus"
)

type order struct{ ID string }
type note struct{ Text string }

const (
	placed   bus.Subject[order]          = "shop.orders.*.placed.v1"
	getOrder bus.Endpoint[string, order] = "shop.orders.*.get.v1"
)

func main() {
	ctx := context.Background()
	var b *bus.Bus
	var st *bus.Stream

	// A constant of one type is none of another.
	var _ bus.Subject[note] = placed    // want `bus\.Subject\[order\]\) as bus\.Subject\[note\]`
	var _ bus.Subject[order] = getOrder // want `bus\.Endpoint\[string, order\]\) as bus\.Subject\[order\]`
	var _ string = placed               // want `bus\.Subject\[order\]\) as string`
	name := "shop.audit"
	bus.Publish(ctx, b, name, note{}) // want `string\) as bus\.Subject\[note\]`
	placed.At(1)                      // want `int constant\) as string`

	// A literal takes the type of what goes with it.
	bus.Publish(ctx, b, "shop.audit", note{})
	bus.Publish(ctx, b, bus.Subject[note](name), note{})
	bus.Subscribe(b, "shop.audit", func(context.Context, *bus.Msg[note]) error { return nil })
	bus.PublishTo(ctx, st, "shop.audit", note{})
	order1, _ := bus.Request[order](ctx, b, "shop.orders.eu.get.v1", "17")
	order2, _ := bus.Request(ctx, b, getOrder.At("eu"), "17")
	bus.Publish(ctx, b, placed.At("eu"), order1)
	bus.Publish(ctx, b, placed.At("eu"), order2)

	// What carries another type keeps it.
	var _ bus.Subject[order] = placed.At("eu")
	var _ bus.Endpoint[string, order] = getOrder.At("eu")
	_ = bus.Subjects(placed, getOrder, placed.At("eu"))
}
