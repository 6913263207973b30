// What is published is of the subject's type.
package main

import (
	"context"

	"github.com/omnibus-go/bus"
)

type order struct{ ID string }
type invoice struct{ ID string }

const placed bus.Subject[order] = "shop.orders.*.placed.v1"

func main() {
	ctx := context.Background()
	var b *bus.Bus
	var st *bus.Stream

	bus.Publish(ctx, b, placed, invoice{})                     // want `invoice .*does not match .*order`
	bus.Publish(ctx, b, placed.At("eu"), invoice{})            // want `invoice .*does not match .*order`
	bus.Publish(ctx, b, placed, &order{})                      // want `\*order .*does not match .*order`
	bus.PublishBatch(ctx, b, placed, []invoice{{}})            // want `\[\]invoice .*does not match .*\[\]order`
	bus.PublishBatch(ctx, b, placed, order{})                  // want `order .*does not match`
	bus.PublishAsync(ctx, b, placed, invoice{})                // want `invoice .*does not match .*order`
	bus.PublishToAsync(ctx, st, placed, invoice{})             // want `invoice .*does not match .*order`
	bus.ItemOf(placed, invoice{})                              // want `invoice .*does not match .*order`
	bus.PublishTo(ctx, st, placed, invoice{})                  // want `invoice .*does not match .*order`
	bus.PublishTo(ctx, b, placed, order{})                     // want `\*bus\.Bus\) as \*bus\.Stream`
	bus.Publish(ctx, st, placed, order{})                      // want `\*bus\.Stream\) as \*bus\.Bus`
	bus.Publish(ctx, b, bus.Subject[invoice](placed), order{}) // want `order .*does not match`
}
