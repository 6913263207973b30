package bus_test

import (
	"context"
	"fmt"

	"github.com/omnibus-go/bus"
)

// Replay reads what a stream has, in order, without a consumer.
func ExampleReplay() {
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
	for m, err := range bus.Replay(ctx, orders, OrderPlaced, bus.StartAtSequence(2)) {
		if m == nil {
			panic(err) // the loop is over
		}
		if err != nil {
			fmt.Println(m.ID, "cannot be read:", err)
			continue
		}
		fmt.Println(m.Sequence, m.Data.ID)
	}
	// Output:
	// 2 o-2
	// 3 o-3
}

// Follow goes on with new messages until the context ends.
func ExampleFollow() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: bus.Subjects(OrderPlaced)})
	if err != nil {
		panic(err)
	}
	place := func(id string) {
		if _, err := bus.PublishTo(ctx, orders, OrderPlaced.At("eu"), Order{ID: id}); err != nil {
			panic(err)
		}
	}
	place("o-1")
	for m, err := range bus.Replay(ctx, orders, OrderPlaced, bus.Last(1), bus.Follow()) {
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(m.Data.ID)
		if m.Data.ID == "o-3" {
			break
		}
		place(fmt.Sprint("o-", m.Sequence+1))
	}
	// Output:
	// o-1
	// o-2
	// o-3
}
