package bus_test

import (
	"context"
	"fmt"

	"github.com/omnibus-go/bus"
)

// At fills wildcards, Match finds out what they stand for.
func ExampleSubject() {
	eu := OrderPlaced.At("eu")
	fmt.Println(eu)
	fmt.Println(OrderPlaced.Match(eu.String()))
	// Output:
	// shop.orders.eu.placed.v1
	// [eu] true
}

// Subjects by the convention {domain}.{service}.{entity}.{action}.{version} can be
// built of their parts.
func ExampleName() {
	s, err := bus.Name{Domain: "shop", Service: "orders", Entity: "*", Action: "placed", Version: "v1"}.Subject()
	placed := bus.Subject[Order](s)
	fmt.Println(placed, err)
	_, err = bus.Name{Domain: "shop", Service: "orders", Entity: "*", Action: "Placed", Version: "v1"}.Subject()
	fmt.Println(err)
	// Output:
	// shop.orders.*.placed.v1 <nil>
	// bus: subject "shop.orders.*.Placed.v1": has the action "Placed", which is not one lower-case token; write "placed"
}

// These are wrong. Nothing is sent, and the error says what to do.
func ExampleSubjectError() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	ctx := context.Background()
	fmt.Println(bus.Publish(ctx, b, "orders.*", Order{}))
	fmt.Println(bus.Publish(ctx, b, OrderPlaced, Order{}))
	fmt.Println(bus.Publish(ctx, b, OrderPlaced.At("eu.west"), Order{}))
	fmt.Println(bus.Publish(ctx, b, "orders..eu", Order{}))

	stream, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: bus.Subjects(OrderPlaced)})
	if err != nil {
		panic(err)
	}
	_, err = bus.PublishTo(ctx, stream, "shop.invoices.sent.v1", Order{})
	fmt.Println(err)
	// Output:
	// bus: subject "orders.*": has the wildcard "*" as token 2; a message goes to one literal subject: replace each wildcard by a value
	// bus: subject "shop.orders.*.placed.v1": has the wildcard "*" as token 3; a message goes to one literal subject: replace each wildcard by a value
	// bus: subject "shop.orders.*.placed.v1": was filled with a bad token 1, "eu.west", that contains a dot; a token is one level: give each level as a token of its own, or encode such values, for example with base64.RawURLEncoding
	// bus: subject "orders..eu": has an empty token at byte 7 (two dots in a row); fill the token or remove a dot
	// bus: subject "shop.invoices.sent.v1": stream "ORDERS" does not store it; it stores shop.orders.*.placed.v1
}
