package bus_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
)

// Two processes share a durable: of each customer one message is handled at a time, in
// order, wherever that is. Here both are in one process, for the example's sake.
func ExampleKeyByToken_severalProcesses() {
	ctx := context.Background()
	quiet := bus.WithLogger(hclog.NewNullLogger())
	server, err := bus.New(quiet, bus.WithListen("127.0.0.1:0"))
	if err != nil {
		panic(err)
	}
	defer server.Close()
	other, err := bus.Connect(ctx, server.ClientURL(), quiet)
	if err != nil {
		panic(err)
	}
	defer other.Close()
	st, err := server.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.*"}})
	if err != nil {
		panic(err)
	}

	var mu sync.Mutex
	var all sync.WaitGroup
	handled := make(map[string][]string) // by subject
	handle := func(_ context.Context, m *bus.Msg[string]) error {
		mu.Lock()
		defer mu.Unlock()
		handled[m.Subject] = append(handled[m.Subject], m.Data)
		all.Done()
		return nil
	}
	for _, b := range []*bus.Bus{server, other} {
		st, err := b.LookupStream(ctx, "ORDERS")
		if err != nil {
			panic(err)
		}
		if _, err := bus.Consume(ctx, st, "billing", "orders.*", handle, bus.KeyByToken(2), bus.Concurrency(4)); err != nil {
			panic(err)
		}
	}
	for _, step := range []string{"placed", "paid", "sent"} {
		for _, customer := range []bus.Subject[string]{"orders.ann", "orders.bob"} {
			all.Add(1)
			if _, err := bus.PublishTo(ctx, st, customer, step); err != nil {
				panic(err)
			}
		}
	}
	all.Wait()
	fmt.Println(handled["orders.ann"], handled["orders.bob"])
	// Output: [placed paid sent] [placed paid sent]
}
