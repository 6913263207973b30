package bus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
)

// PublishTo returns when the message is stored. With MsgID the same message is
// stored once, however often it is sent within the stream's Duplicates window.
func ExamplePublishTo() {
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
	for _, id := range []string{"o-1", "o-2", "o-1"} {
		ack, err := bus.PublishTo(ctx, orders, OrderPlaced.At("eu"), Order{ID: id}, bus.MsgID(id))
		if err != nil {
			panic(err)
		}
		fmt.Println(id, "is message", ack.Sequence, "stored before:", ack.Duplicate)
	}
	// Output:
	// o-1 is message 1 stored before: false
	// o-2 is message 2 stored before: false
	// o-1 is message 1 stored before: true
}

// A consumer gets each stored message at least once: a message whose handler fails
// comes again. The name "billing" is durable: whoever consumes with it later goes
// on where it was.
func ExampleConsume() {
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
	if _, err := bus.PublishTo(ctx, orders, OrderPlaced.At("eu"), Order{ID: "o-1"}); err != nil {
		panic(err)
	}
	done := make(chan string)
	_, err = bus.Consume(ctx, orders, "billing", OrderPlaced, func(_ context.Context, m *bus.Msg[Order]) error {
		if m.Attempt < 3 {
			return errors.New("the bank does not answer")
		}
		done <- fmt.Sprintf("order %s, message %s, billed at attempt %d", m.Data.ID, m.ID, m.Attempt)
		return nil
	}, bus.Retry(bus.RetryPolicy{MinBackoff: time.Millisecond, MaxBackoff: time.Second}))
	if err != nil {
		panic(err)
	}
	fmt.Println(<-done)
	// Output:
	// order o-1, message ORDERS/1, billed at attempt 3
}

// Publish does not promise that a message is stored. Under WithStrictPublish it
// refuses subjects that a stream stores.
func ExampleWithStrictPublish() {
	b, err := bus.New(bus.WithStrictPublish())
	if err != nil {
		panic(err)
	}
	defer b.Close()
	ctx := context.Background()
	if _, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: bus.Subjects(OrderPlaced)}); err != nil {
		panic(err)
	}
	fmt.Println(bus.Publish(ctx, b, OrderPlaced.At("eu"), Order{ID: "o-1"}))
	// Output:
	// bus: subject "shop.orders.eu.placed.v1" is stored by stream "ORDERS": use PublishTo, which reports whether it was
}

// On a stream that exists, Stream makes only changes that remove no message.
func ExampleBus_Stream() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	ctx := context.Background()
	for _, c := range []bus.StreamConfig{
		{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 1000},
		{Name: "ORDERS", MaxMsgs: 2000},
		{Name: "ORDERS", MaxMsgs: 10},
	} {
		_, err := b.Stream(ctx, c)
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// <nil>
	// bus: stream "ORDERS" exists with another configuration, nothing was changed: MaxMsgs: have 2000, want 10 (needs AllowShrink); if a newer version of the program made the stream, give each version a Revision instead: then an older one leaves the stream as it is
}

// Plan says what a change would remove; AllowShrink makes it. Of two versions of a
// program the one with the higher Revision decides.
func ExampleStream_Plan() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	ctx := context.Background()
	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 1000})
	if err != nil {
		panic(err)
	}
	for id := range 100 {
		if _, err := bus.PublishTo(ctx, orders, "orders.placed", id); err != nil {
			panic(err)
		}
	}
	smaller := bus.StreamConfig{Name: "ORDERS", Revision: 2, MaxMsgs: 10}
	plan, err := orders.Plan(ctx, smaller)
	if err != nil {
		panic(err)
	}
	fmt.Println(plan)
	if _, err := b.Stream(ctx, smaller, bus.AllowShrink()); err != nil {
		panic(err)
	}
	older := bus.StreamConfig{Name: "ORDERS", Revision: 1, MaxMsgs: 1000} // a program that was not updated yet
	if plan, err = orders.Plan(ctx, older); err != nil {
		panic(err)
	}
	fmt.Println(plan)
	// Output:
	// stream "ORDERS":
	//   change Revision: have 0, want 2
	//   refuse MaxMsgs: have 1000, want 10 (needs AllowShrink)
	//   remove 90 messages
	// stream "ORDERS":
	//   stays as it is: it has a higher Revision
}

// Messages are removed by hand with Purge, and a stream with all that belongs to it
// with Delete.
func ExampleStream_Purge() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	ctx := context.Background()
	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.*"}})
	if err != nil {
		panic(err)
	}
	for id := range 10 {
		if _, err := bus.PublishTo(ctx, orders, bus.Subject[int]("orders.*").At([]string{"test", "real"}[id%2]), id); err != nil {
			panic(err)
		}
	}
	n, err := orders.Purge(ctx, bus.PurgeFilter{Subject: "orders.test"})
	fmt.Println(n, err)
	n, err = orders.Purge(ctx, bus.PurgeFilter{Keep: 2})
	fmt.Println(n, err)
	fmt.Println(orders.Delete(ctx))
	_, err = b.LookupStream(ctx, "ORDERS")
	fmt.Println(errors.Is(err, bus.ErrStreamNotFound))
	// Output:
	// 5 <nil>
	// 3 <nil>
	// <nil>
	// true
}

// A message whose handler fails for good becomes a dead dead. When the cause is
// mended it goes back to the consumer that failed.
func ExampleStream_Redrive() {
	dead := make(chan event.Event, 1)
	b, err := bus.New(bus.WithEvents(func(e event.Event) {
		if e.Kind == event.DeadLetter {
			dead <- e
		}
	}))
	if err != nil {
		panic(err)
	}
	defer b.Close()
	ctx := context.Background()
	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: bus.Subjects(OrderPlaced)})
	if err != nil {
		panic(err)
	}
	if _, err := bus.PublishTo(ctx, orders, OrderPlaced.At("eu"), Order{ID: "o-1"}); err != nil {
		panic(err)
	}
	consumer, err := bus.Consume(ctx, orders, "billing", OrderPlaced, func(context.Context, *bus.Msg[Order]) error {
		return bus.Permanent(errors.New("unknown currency"))
	})
	if err != nil {
		panic(err)
	}
	<-dead
	if err := consumer.Drain(ctx); err != nil {
		panic(err)
	}
	for dead, err := range orders.DeadLetters(ctx, bus.DeadFilter{Durable: "billing"}) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("message %d died: %s (%s)\n", dead.Sequence, dead.Error, dead.Cause)
	}
	n, err := orders.Redrive(ctx, bus.DeadFilter{Durable: "billing"})
	if err != nil {
		panic(err)
	}
	fmt.Println("given back:", n)
	done := make(chan string)
	_, err = bus.Consume(ctx, orders, "billing", OrderPlaced, func(_ context.Context, m *bus.Msg[Order]) error {
		done <- m.Data.ID
		return nil
	})
	if err != nil {
		panic(err)
	}
	fmt.Println("billed:", <-done)
	// Output:
	// message 1 died: unknown currency (permanent)
	// given back: 1
	// billed: o-1
}
