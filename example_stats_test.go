package bus_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/omnibus-go/bus"
)

// Stats counts what the bus and each of its subscriptions have done.
func ExampleBus_Stats() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	_, err = bus.Subscribe(b, "jobs", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data%3 == 0 {
			return errors.New("no luck")
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	for job := range 6 {
		if err := bus.Publish(context.Background(), b, "jobs", job); err != nil {
			panic(err)
		}
	}
	if err := b.Close(); err != nil {
		panic(err)
	}
	s := b.Stats()
	fmt.Println("published", s.Published, "received", s.Received, "handled", s.Handled, "errors", s.HandlerErrors)
	// Output:
	// published 6 received 6 handled 4 errors 2
}

// Health is meant for readiness probes. Its report can be served as JSON.
func ExampleBus_Health() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	fmt.Println(b.Health(context.Background()).Status)
	if err := b.Close(); err != nil {
		panic(err)
	}
	report := b.Health(context.Background())
	fmt.Println(report.Status, report.Problems[0].Reason)
	// Output:
	// healthy
	// failed the bus is closed
}
