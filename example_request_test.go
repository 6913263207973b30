package bus_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/omnibus-go/bus"
)

type Ask struct{ SKU string }

type Quote struct{ Cents int }

// GetQuote carries the types of the request and of the reply.
const GetQuote bus.Endpoint[Ask, Quote] = "shop.quotes.get.v1"

// A responder answers requests. The types follow from the endpoint.
func ExampleRequest() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	_, err = bus.Respond(b, GetQuote, func(_ context.Context, m *bus.Msg[Ask]) (Quote, error) {
		return Quote{Cents: 100 * len(m.Data.SKU)}, nil
	})
	if err != nil {
		panic(err)
	}
	q, err := bus.Request(context.Background(), b, GetQuote, Ask{SKU: "tea"})
	fmt.Println(q.Cents, err)

	// With a literal only the type of the reply has to be named.
	q, err = bus.Request[Quote](context.Background(), b, "shop.quotes.get.v1", Ask{SKU: "coffee"})
	fmt.Println(q.Cents, err)
	// Output:
	// 300 <nil>
	// 600 <nil>
}

// Only an error made with Public reaches the requester; any other is an internal
// error there and an event here.
func ExamplePublic() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	_, err = bus.Respond(b, GetQuote, func(_ context.Context, m *bus.Msg[Ask]) (Quote, error) {
		if m.Data.SKU == "" {
			return Quote{}, bus.Public("400", "a SKU is needed")
		}
		return Quote{}, errors.New("the password of the database is wrong")
	})
	if err != nil {
		panic(err)
	}
	for _, sku := range []string{"", "tea"} {
		_, err := bus.Request(context.Background(), b, GetQuote, Ask{SKU: sku})
		if remote, ok := errors.AsType[*bus.RemoteError](err); ok {
			fmt.Println(remote.Code, remote.Message)
		}
	}
	// Output:
	// 400 a SKU is needed
	// 500 internal error
}

// A request that nobody serves fails at once; it does not wait for a timeout.
func ExampleRequest_noResponders() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	_, err = bus.Request(context.Background(), b, GetQuote, Ask{SKU: "tea"})
	fmt.Println(errors.Is(err, bus.ErrNoResponders))
	// Output:
	// true
}
