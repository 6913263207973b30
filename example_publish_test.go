package bus_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
)

type Order struct {
	ID    string `json:"id"`
	Cents int    `json:"cents"`
}

// OrderPlaced is a constant that carries the type of its messages. The wildcard
// stands for the region.
const OrderPlaced bus.Subject[Order] = "shop.orders.*.placed.v1"

// A publisher fills the wildcard, a subscriber takes all of them. The type of the
// message follows from the subject; another one does not compile.
func ExamplePublish() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	_, err = bus.Subscribe(b, OrderPlaced, func(_ context.Context, m *bus.Msg[Order]) error {
		region, _ := OrderPlaced.Match(m.Subject)
		fmt.Println("order", m.Data.ID, "from", region)
		return nil
	})
	if err != nil {
		panic(err)
	}
	err = bus.Publish(context.Background(), b, OrderPlaced.At("eu"), Order{ID: "o-1", Cents: 995})
	if err != nil {
		panic(err)
	}
	if err := b.Close(); err != nil { // handles what has arrived
		panic(err)
	}
	// Output:
	// order o-1 from [eu]
}

// A literal can stand for a subject; the type of its messages is then that of the
// handler, or of the value.
func ExampleSubscribe() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	sub, err := bus.Subscribe(b, "sensors.*.temperature", func(_ context.Context, m *bus.Msg[float64]) error {
		fmt.Println(m.Subject, m.Data, m.Header.Get("Unit"))
		return nil
	})
	if err != nil {
		panic(err)
	}
	err = bus.Publish(context.Background(), b, "sensors.hall.temperature", 21.5, bus.WithHeader("Unit", "C"))
	if err != nil {
		panic(err)
	}
	if err := sub.Drain(context.Background()); err != nil { // handles what has arrived, then ends
		panic(err)
	}
	// Output:
	// sensors.hall.temperature 21.5 C
}

// What a core handler fails on is not repeated. WithEvents tells of it, and of
// everything else that no call could return.
func ExampleWithEvents() {
	b, err := bus.New(bus.WithEvents(func(e event.Event) {
		fmt.Printf("%s on %s: %v\n", e.Kind, e.Subject, e.Err)
	}))
	if err != nil {
		panic(err)
	}
	_, err = bus.Subscribe(b, "jobs", func(_ context.Context, m *bus.Msg[string]) error {
		return errors.New("no more paper")
	})
	if err != nil {
		panic(err)
	}
	if err := bus.Publish(context.Background(), b, "jobs", "print"); err != nil {
		panic(err)
	}
	if err := b.Close(); err != nil {
		panic(err)
	}
	// Output:
	// handler failed on jobs: no more paper
}

// Members of a queue group share the messages: each goes to one of them.
func ExampleQueue() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	done := make(chan int, 9)
	for range 3 {
		_, err := bus.Subscribe(b, "jobs", func(_ context.Context, m *bus.Msg[int]) error {
			done <- m.Data
			return nil
		}, bus.Queue("workers"))
		if err != nil {
			panic(err)
		}
	}
	for job := range 9 {
		if err := bus.Publish(context.Background(), b, "jobs", job); err != nil {
			panic(err)
		}
	}
	if err := b.Close(); err != nil {
		panic(err)
	}
	fmt.Println(len(done), "jobs done by 3 workers")
	// Output:
	// 9 jobs done by 3 workers
}

// PublishAsync returns before the message is sent; a goroutine of the bus sends
// many at once.
func ExamplePublishAsync() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	result := make(chan int)
	sum := 0 // no lock: one handler runs at a time unless Concurrency says otherwise
	_, err = bus.Subscribe(b, "numbers", func(_ context.Context, m *bus.Msg[int]) error {
		if sum += m.Data; m.Data == 100 {
			result <- sum
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	for i := 1; i <= 100; i++ {
		if err := bus.PublishAsync(context.Background(), b, "numbers", i); err != nil {
			panic(err)
		}
	}
	fmt.Println("the sum is", <-result)
	// Output:
	// the sum is 5050
}
