package bus_test

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
)

// With WithListen any NATS client can talk to the bus. Messages of structs are
// plain JSON.
func ExampleWithListen() {
	b, err := bus.New(bus.WithListen("127.0.0.1:0"))
	if err != nil {
		panic(err)
	}
	defer b.Close()
	_, err = bus.Respond(b, "add", func(_ context.Context, m *bus.Msg[[]int]) (int, error) {
		return m.Data[0] + m.Data[1], nil
	})
	if err != nil {
		panic(err)
	}

	nc, err := nats.Connect(b.ClientURL())
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, "add", []byte("[2, 3]"))
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", reply.Data)
	// Output:
	// 5
}

// Connect gives a bus on a server that exists. All but the first line is as with
// an embedded one.
func ExampleConnect() {
	server, err := bus.New(bus.WithListen("127.0.0.1:0")) // stands for a NATS server
	if err != nil {
		panic(err)
	}
	defer server.Close()

	b, err := bus.Connect(context.Background(), server.ClientURL())
	if err != nil {
		panic(err)
	}
	_, err = bus.Subscribe(b, OrderPlaced, func(_ context.Context, m *bus.Msg[Order]) error {
		fmt.Println("order", m.Data.ID)
		return nil
	})
	if err != nil {
		panic(err)
	}
	if err := bus.Publish(context.Background(), b, OrderPlaced.At("eu"), Order{ID: "o-1"}); err != nil {
		panic(err)
	}
	if err := b.Close(); err != nil {
		panic(err)
	}
	// Output:
	// order o-1
}
