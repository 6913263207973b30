package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/omnibus-go/bus"
)

// A thousand readings are stored without waiting for one before the next is sent. The
// futures say what became of each.
func ExamplePublishToAsync() {
	const Reading bus.Subject[float64] = "sensors.*.celsius"
	ctx := context.Background()
	b, err := bus.New()
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	readings, err := b.Stream(ctx, bus.StreamConfig{Name: "READINGS", Subjects: bus.Subjects(Reading)})
	if err != nil {
		log.Fatal(err)
	}

	var futures []*bus.Future
	for i := range 1000 {
		f, err := bus.PublishToAsync(ctx, readings, Reading.At("roof"), float64(i)/10, bus.AutoID())
		if err != nil {
			log.Fatal(err) // nothing was sent
		}
		futures = append(futures, f)
	}
	for _, f := range futures {
		ack, err := f.Wait(ctx)
		if err != nil {
			log.Fatal(err)
		}
		if ack.Sequence%400 == 0 {
			fmt.Println("stored at", ack.Sequence)
		}
	}
	// Output:
	// stored at 400
	// stored at 800
}

// An order and what follows from it are stored together, or neither is.
func ExamplePublishToBatch() {
	type placed struct{ ID string }
	type reserved struct {
		SKU   string
		Count int
	}
	ctx := context.Background()
	b, err := bus.New()
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	shop, err := b.Stream(ctx, bus.StreamConfig{Name: "SHOP", Subjects: []string{"shop.>"}, AtomicBatches: true})
	if err != nil {
		log.Fatal(err)
	}

	ack, err := bus.PublishToBatch(ctx, shop,
		bus.ItemOf("shop.orders.placed", placed{"o-1"}, bus.MsgID("o-1")),
		bus.ItemOf("shop.stock.reserved", reserved{"tea", 2}),
	)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("stored from", ack.First, "to", ack.Sequence)

	_, err = bus.PublishToBatch(ctx, shop,
		bus.ItemOf("shop.stock.reserved", reserved{"tea", 1}),
		bus.ItemOf("shop.orders.placed", placed{"o-1"}, bus.MsgID("o-1")),
	)
	if known, ok := errors.AsType[*bus.ConflictError](err); ok {
		fmt.Println("nothing stored:", known.MsgID, "is message", known.Actual)
	}
	// Output:
	// stored from 1 to 2
	// nothing stored: o-1 is message 1
}

// Two clerks change one account. The second has not seen what the first did, and is
// told.
func ExampleExpectLastSubjectSequence() {
	const Balance bus.Subject[int] = "accounts.*.balance"
	ctx := context.Background()
	b, err := bus.New()
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	accounts, err := b.Stream(ctx, bus.StreamConfig{Name: "ACCOUNTS", Subjects: bus.Subjects(Balance)})
	if err != nil {
		log.Fatal(err)
	}
	seen, err := bus.PublishTo(ctx, accounts, Balance.At("ann"), 100, bus.ExpectLastSubjectSequence(0)) // there is none yet
	if err != nil {
		log.Fatal(err)
	}

	for _, balance := range []int{80, 130} {
		_, err = bus.PublishTo(ctx, accounts, Balance.At("ann"), balance, bus.ExpectLastSubjectSequence(seen.Sequence), bus.AutoID())
		if conflict, ok := errors.AsType[*bus.ConflictError](err); ok {
			fmt.Printf("%d: the last message is %d, I have seen %d\n", balance, conflict.Actual, conflict.Expected)
			continue
		}
		fmt.Printf("%d: stored, %v\n", balance, err)
	}
	// Output:
	// 80: stored, <nil>
	// 130: the last message is 2, I have seen 1
}

// The events of one order have several subjects; a new one is stored only if no other
// came in between.
func ExampleExpectLastSequenceOf() {
	ctx := context.Background()
	b, err := bus.New()
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	if err != nil {
		log.Fatal(err)
	}
	placed, err := bus.PublishTo(ctx, orders, "orders.17.placed", "tea", bus.ExpectLastSequenceOf("orders.17.>", 0))
	if err != nil {
		log.Fatal(err)
	}
	if _, err = bus.PublishTo(ctx, orders, "orders.17.cancelled", "too late"); err != nil {
		log.Fatal(err)
	}

	_, err = bus.PublishTo(ctx, orders, "orders.17.shipped", "tea", bus.ExpectLastSequenceOf("orders.17.>", placed.Sequence))
	fmt.Println(err)
	// Output:
	// bus: stream "ORDERS": the last sequence of "orders.17.>" is 2, not 1 as expected; nothing was stored, read what is there and decide again
}

// A one-time password is worth nothing after a minute.
func ExampleTTL() {
	ctx := context.Background()
	b, err := bus.New()
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	plain, err := b.Stream(ctx, bus.StreamConfig{Name: "PASSWORDS", Subjects: []string{"passwords.*"}})
	if err != nil {
		log.Fatal(err)
	}
	_, err = bus.PublishTo(ctx, plain, "passwords.ann", "123456", bus.TTL(time.Minute))
	fmt.Println(err)

	passwords, err := b.Stream(ctx, bus.StreamConfig{Name: "PASSWORDS", Subjects: []string{"passwords.*"}, MessageTTL: true})
	if err != nil {
		log.Fatal(err)
	}
	ack, err := bus.PublishTo(ctx, passwords, "passwords.ann", "123456", bus.TTL(time.Minute))
	fmt.Println(ack.Sequence, err)
	// Output:
	// bus: stream "PASSWORDS" was declared without MessageTTL: set it in the StreamConfig and declare it again with Bus.Stream
	// 1 <nil>
}

// With AutoID a message can be sent again when the answer is lost, and is stored once.
func ExampleAutoID() {
	ctx := context.Background()
	b, err := bus.New()
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	notes, err := b.Stream(ctx, bus.StreamConfig{Name: "NOTES", Subjects: []string{"notes"}})
	if err != nil {
		log.Fatal(err)
	}
	ack, err := bus.PublishTo(ctx, notes, "notes", "buy tea", bus.AutoID())
	if errors.Is(err, bus.ErrUnknownOutcome) {
		fmt.Println("the server did not answer in five seconds; it may be stored")
		return
	}
	fmt.Println("stored at", ack.Sequence)
	// Output:
	// stored at 1
}
