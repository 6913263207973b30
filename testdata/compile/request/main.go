// A request and its answer are of the endpoint's types.
package main

import (
	"context"

	"github.com/omnibus-go/bus"
)

type ask struct{ SKU string }
type quote struct{ Cents int }

const getQuote bus.Endpoint[ask, quote] = "shop.quotes.get.v1"

func main() {
	ctx := context.Background()
	var b *bus.Bus

	bus.Request(ctx, b, getQuote, quote{}) // want `quote .*does not match .*ask for Req`
	var a ask
	a, _ = bus.Request(ctx, b, getQuote, ask{}) // want `quote\) as ask`
	_ = a
	bus.Request[ask](ctx, b, getQuote, ask{})        // want `does not match .*bus\.Endpoint\[ask, ask\]`
	bus.Request(ctx, b, "shop.quotes.get.v1", ask{}) // want `cannot infer Resp`

	bus.Respond(b, getQuote, func(context.Context, *bus.Msg[quote]) (quote, error) { return quote{}, nil }) // want `does not match .*bus\.Responder[[]ask, quote]`
	bus.Respond(b, getQuote, func(context.Context, *bus.Msg[ask]) (ask, error) { return ask{}, nil })       // want `does not match .*bus\.Responder[[]ask, quote]`
	bus.Respond(b, getQuote, func(context.Context, *bus.Msg[ask]) error { return nil })                     // want `does not match .*bus\.Responder[[]ask, quote]`
	bus.Publish(ctx, b, getQuote, ask{})                                                                    // want `bus\.Endpoint.*does not match bus\.Subject`
}
