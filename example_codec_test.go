package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/codec"
)

// As chooses the codec of one message. Its content type tells the receiver, which
// needs no option.
func ExampleAs() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	_, err = bus.Subscribe(b, OrderPlaced, func(_ context.Context, m *bus.Msg[Order]) error {
		fmt.Printf("%s: %q\n", m.Data.ID, m.Header.Get("Content-Type"))
		return nil
	})
	if err != nil {
		panic(err)
	}
	_ = bus.Publish(context.Background(), b, OrderPlaced.At("eu"), Order{ID: "o-1"}) // JSON needs no header
	_ = bus.Publish(context.Background(), b, OrderPlaced.At("eu"), Order{ID: "o-2"}, bus.As(codec.CBOR))
	if err := b.Close(); err != nil {
		panic(err)
	}
	// Output:
	// o-1: ""
	// o-2: "application/cbor"
}

// Payloads that are long enough are compressed where that makes them smaller.
// Every bus reads compressed messages.
func ExampleWithCompression() {
	b, err := bus.New(bus.WithCompression(bus.Compression{Encoding: codec.Zstd}))
	if err != nil {
		panic(err)
	}
	_, err = bus.Subscribe(b, "texts", func(_ context.Context, m *bus.Msg[string]) error {
		fmt.Printf("%d characters, sent as %q\n", len(m.Data), m.Header.Get("Content-Encoding"))
		return nil
	})
	if err != nil {
		panic(err)
	}
	_ = bus.Publish(context.Background(), b, "texts", "short")
	_ = bus.Publish(context.Background(), b, "texts", strings.Repeat("long ", 1000))
	if err := b.Close(); err != nil {
		panic(err)
	}
	// Output:
	// 5 characters, sent as ""
	// 5000 characters, sent as "zstd"
}

// Transfer has a Validate method, which is called when one is published and when
// one is received.
type Transfer struct{ Cents int }

func (t Transfer) Validate() error {
	if t.Cents <= 0 {
		return errors.New("nothing to transfer")
	}
	return nil
}

// An invalid value is not sent.
func ExampleValidationError() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	defer b.Close()
	err = bus.Publish(context.Background(), b, "transfers", Transfer{})
	fmt.Println(err)
	invalid, ok := errors.AsType[*bus.ValidationError](err)
	fmt.Println(ok, invalid.Type)
	// Output:
	// bus: subject "transfers": invalid bus_test.Transfer: nothing to transfer
	// true bus_test.Transfer
}
