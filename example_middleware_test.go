package bus_test

import (
	"context"
	"fmt"

	"github.com/omnibus-go/bus"
)

// The bus's middleware is outside that of one handler, and in both lists the first
// is the outermost.
func ExampleMiddleware() {
	trace := func(name string) bus.Middleware {
		return func(next bus.RawHandler) bus.RawHandler {
			return func(ctx context.Context, m *bus.RawMsg) error {
				fmt.Println(name, "before")
				defer fmt.Println(name, "after")
				return next(ctx, m)
			}
		}
	}
	b, err := bus.New(bus.WithMiddleware(trace("bus")))
	if err != nil {
		panic(err)
	}
	_, err = bus.Subscribe(b, "jobs", func(_ context.Context, m *bus.Msg[string]) error {
		fmt.Println("handle", m.Data)
		return nil
	}, bus.Use(trace("first"), trace("second")))
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
	// bus before
	// first before
	// second before
	// handle print
	// second after
	// first after
	// bus after
}
