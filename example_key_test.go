package bus_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
)

// The steps of each order are handled in their order, also where one fails; those of
// other orders do not wait for that.
func ExampleKeyBy() {
	type Step struct{ Order, Name string }
	ctx := context.Background()
	b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()))
	if err != nil {
		panic(err)
	}
	defer b.Close()
	st, err := b.Stream(ctx, bus.StreamConfig{Name: "STEPS"})
	if err != nil {
		panic(err)
	}
	for _, s := range []Step{{"o-1", "placed"}, {"o-1", "paid"}, {"o-1", "shipped"}} {
		if _, err := bus.PublishTo(ctx, st, "STEPS", s); err != nil {
			panic(err)
		}
	}
	done := make(chan string)
	_, err = bus.Consume(ctx, st, "shop", "STEPS", func(_ context.Context, m *bus.Msg[Step]) error {
		if m.Data.Name == "placed" && m.Attempt < 3 {
			return errors.New("not yet")
		}
		done <- m.Data.Order + " " + m.Data.Name
		return nil
	}, bus.Concurrency(8), bus.KeyBy(func(m *bus.Msg[Step]) string { return m.Data.Order }))
	if err != nil {
		panic(err)
	}
	for range 3 {
		fmt.Println(<-done)
	}
	// Output:
	// o-1 placed
	// o-1 paid
	// o-1 shipped
}

// A key whose message cannot be handled is put aside with all that comes behind it,
// until somebody gives it back.
func ExampleAfterDeadLetter() {
	ctx := context.Background()
	dead := make(chan event.Event, 10)
	b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()), bus.WithEvents(func(e event.Event) {
		if e.Kind == event.DeadLetter {
			dead <- e
		}
	}))
	if err != nil {
		panic(err)
	}
	defer b.Close()
	st, err := b.Stream(ctx, bus.StreamConfig{Name: "STEPS"})
	if err != nil {
		panic(err)
	}
	for _, step := range []string{"placed", "paid"} {
		if _, err := bus.PublishTo(ctx, st, "STEPS", step); err != nil {
			panic(err)
		}
	}
	_, err = bus.Consume(ctx, st, "shop", "STEPS", func(_ context.Context, m *bus.Msg[string]) error {
		return bus.Permanent(errors.New("no such order"))
	}, bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows))
	if err != nil {
		panic(err)
	}
	<-dead
	<-dead
	for dead, err := range st.DeadLetters(ctx, bus.DeadFilter{}) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s: %s\n", dead.Data, dead.Cause)
	}
	// Output:
	// "placed": permanent
	// "paid": behind
}
