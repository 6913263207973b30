// Handlers take messages of the subject's type.
package main

import (
	"context"

	"github.com/omnibus-go/bus"
)

type order struct{ ID string }
type invoice struct{ ID string }

const placed bus.Subject[order] = "shop.orders.eu.placed.v1"

func wrong(context.Context, *bus.Msg[invoice]) error { return nil }

func right(context.Context, *bus.Msg[order]) error { return nil }

func main() {
	ctx := context.Background()
	var b *bus.Bus
	var st *bus.Stream
	var m bus.Mux

	bus.Subscribe(b, placed, wrong)                // want `invoice.* does not match .*bus\.Handler\[order\]`
	bus.Consume(ctx, st, "billing", placed, wrong) // want `invoice.* does not match .*bus\.Handler\[order\]`
	bus.Handle(&m, placed, wrong)                  // want `invoice.* does not match .*bus\.Handler\[order\]`

	bus.Subscribe(b, placed, func(context.Context, order) error { return nil }) // want `order\) error .* does not match .*bus\.Handler\[order\]`
	bus.Subscribe(b, placed, func(m *bus.Msg[order]) {})                        // want `does not match .*bus\.Handler\[order\]`

	bus.Subscribe(b, placed, right)
	bus.Consume(ctx, st, "billing", placed, right)
	bus.Handle(&m, placed, right)
}
