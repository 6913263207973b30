package bus_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/omnibus-go/bus"
)

// Without options a bus has a server of its own in this process, no port, and
// streams in memory. Close handles what has arrived before it returns.
func ExampleNew() {
	b, err := bus.New()
	if err != nil {
		panic(err)
	}
	_, err = bus.Subscribe(b, "greetings", func(_ context.Context, m *bus.Msg[string]) error {
		fmt.Println("received", m.Data)
		return nil
	})
	if err != nil {
		panic(err)
	}
	if err := bus.Publish(context.Background(), b, "greetings", "hello"); err != nil {
		panic(err)
	}
	if err := b.Close(); err != nil {
		panic(err)
	}
	fmt.Println("closed")
	// Output:
	// received hello
	// closed
}

// With a store directory streams are on disk: a bus that starts there later has
// them. One bus at a time can use a directory.
func ExampleWithStoreDir() {
	parent, err := os.MkdirTemp("", "example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "store")
	ctx := context.Background()

	for range 2 {
		b, err := bus.New(bus.WithStoreDir(dir))
		if err != nil {
			panic(err)
		}
		notes, err := b.Stream(ctx, bus.StreamConfig{Name: "NOTES", Subjects: []string{"notes.>"}})
		if err != nil {
			panic(err)
		}
		ack, err := bus.PublishTo(ctx, notes, "notes.mine", "remember this")
		if err != nil {
			panic(err)
		}
		fmt.Println("stored as message", ack.Sequence)

		if _, err := bus.New(bus.WithStoreDir(dir)); err != nil {
			fmt.Println("a second bus cannot use the directory")
		}
		if err := b.Close(); err != nil {
			panic(err)
		}
	}
	// Output:
	// stored as message 1
	// a second bus cannot use the directory
	// stored as message 2
	// a second bus cannot use the directory
}

// All wrong options are reported at once.
func ExampleOptionError() {
	_, err := bus.New(bus.WithListen("localhost"), bus.WithTimeout(0), bus.WithName("my program"))
	fmt.Println(err)
	// Output:
	// bus: WithListen("localhost"): is not host:port; use "127.0.0.1:4222", or port 0 for any free one
	// bus: WithTimeout(0s): must be more than zero
	// bus: WithName("my program"): use 1 to 128 letters, digits, - and _
}
