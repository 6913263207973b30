// Command quickstart shows what a bus does, step by step, and says so:
//
//	go run ./examples/quickstart
//
// It needs nothing else: the server runs inside the program. It ends with exit
// code 1 when a step does not do what it should.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/omnibus-go/bus"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run shows each feature in turn and tells w about it.
func run(w io.Writer) error {
	for i, step := range []struct {
		title string
		show  func(context.Context, io.Writer) error
	}{
		{"Publish and subscribe", publishSubscribe},
		{"Request and respond", requestRespond},
		{"A queue group shares the work", queueGroup},
		{"A stream on disk survives a restart", durableStream},
	} {
		fmt.Fprintf(w, "%d. %s\n", i+1, step.title)
		if err := step.show(context.Background(), w); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "Done.")
	return nil
}

// newBus starts a bus that logs warnings only, so that the story stays readable.
func newBus(opts ...bus.ConnectOption) (*bus.Bus, error) {
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	all := []bus.Option{bus.WithSlog(quiet)}
	for _, o := range opts {
		all = append(all, o)
	}
	return bus.New(all...)
}
