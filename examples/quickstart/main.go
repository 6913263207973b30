// Command quickstart shows the features of a bus, step by step, and prints what happens:
//
//	go run ./examples/quickstart
//
// It needs no other program, because the server runs inside. The exit code is 1 if a step does not do what
// it must.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/omnibus-go/bus"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// timeLimit limits how long the whole program may take. It needs much less.
const timeLimit = time.Minute

// run shows each feature in turn and prints to w.
func run(w io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
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
		if err := step.show(ctx, w); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "Done.")
	return nil
}

// withBus calls use with a new bus and closes it.
func withBus(use func(b *bus.Bus) error, opts ...bus.Option) error {
	// It logs only warnings, so that the output stays readable.
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	b, err := bus.New(append(opts, bus.WithSlog(log))...)
	if err != nil {
		return err
	}
	return errors.Join(use(b), b.Close())
}

// next returns the next value of c, or an error when ctx ends first.
func next[T any](ctx context.Context, c <-chan T) (T, error) {
	select {
	case v := <-c:
		return v, nil
	case <-ctx.Done():
		var none T
		return none, errors.New("a message did not arrive")
	}
}

type order struct {
	ID    string `json:"id"`
	Cents int    `json:"cents"`
}

// orderPlaced is a subject with messages of type order. The wildcard is the region.
const orderPlaced bus.Subject[order] = "shop.orders.*.placed.v1"

func publishSubscribe(ctx context.Context, w io.Writer) error {
	return withBus(func(b *bus.Bus) error {
		received := make(chan *bus.Msg[order], 2)
		_, err := bus.Subscribe(b, orderPlaced, func(_ context.Context, m *bus.Msg[order]) error {
			received <- m
			return nil
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(w, "   subscribed to", orderPlaced)
		for _, region := range []string{"eu", "us"} {
			if err := bus.Publish(ctx, b, orderPlaced.At(region), order{ID: region + "-1", Cents: 995}); err != nil {
				return err
			}
			m, err := next(ctx, received)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "   received order %s of %d cents on %s\n", m.Data.ID, m.Data.Cents, m.Subject)
		}
		return nil
	})
}

type ask struct {
	SKU string `json:"sku"`
}

type quote struct {
	Cents int `json:"cents"`
}

// getQuote is a subject for requests: the answer to an ask is a quote.
const getQuote bus.Endpoint[ask, quote] = "shop.quotes.get.v1"

func requestRespond(ctx context.Context, w io.Writer) error {
	return withBus(func(b *bus.Bus) error {
		_, err := bus.Respond(b, getQuote, func(_ context.Context, m *bus.Msg[ask]) (quote, error) {
			if m.Data.SKU != "tea" {
				return quote{}, bus.Public("404", "we do not sell "+m.Data.SKU)
			}
			return quote{Cents: 450}, nil
		})
		if err != nil {
			return err
		}
		q, err := bus.Request(ctx, b, getQuote, ask{SKU: "tea"})
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "   a quote for tea: %d cents\n", q.Cents)

		_, err = bus.Request(ctx, b, getQuote, ask{SKU: "elephants"})
		remote, ok := errors.AsType[*bus.RemoteError](err)
		if !ok {
			return fmt.Errorf("a quote for elephants: got error %v, want a *bus.RemoteError", err)
		}
		fmt.Fprintf(w, "   a quote for elephants: error %s, %s\n", remote.Code, remote.Message)
		return nil
	})
}

func queueGroup(ctx context.Context, w io.Writer) error {
	const members, jobs = 3, 12
	return withBus(func(b *bus.Bus) error {
		done := make(chan int, members*jobs) // room for a mistake: every member does each job
		for range members {
			_, err := bus.Subscribe(b, "shop.jobs", func(_ context.Context, m *bus.Msg[int]) error {
				done <- m.Data
				return nil
			}, bus.Queue("workers"))
			if err != nil {
				return err
			}
		}
		fmt.Fprintf(w, "   %d members joined the queue group \"workers\"\n", members)
		for job := range jobs {
			if err := bus.Publish(ctx, b, "shop.jobs", job); err != nil {
				return err
			}
		}
		times := make(map[int]int)
		for range jobs {
			job, err := next(ctx, done)
			if err != nil {
				return err
			}
			times[job]++
		}
		if len(times) != jobs {
			return fmt.Errorf("of %d jobs %d were done", jobs, len(times))
		}
		fmt.Fprintf(w, "   %d jobs published, each done by one member\n", jobs)
		return nil
	})
}

// durableStream runs the same program twice with the same directory. The second run finds the messages of
// the first one and continues where that stopped.
func durableStream(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "quickstart-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	err = withBus(func(b *bus.Bus) error { return firstRun(ctx, w, b) }, bus.WithStoreDir(dir))
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "   the bus is closed; a new one starts on the same directory")
	return withBus(func(b *bus.Bus) error { return secondRun(ctx, w, b) }, bus.WithStoreDir(dir))
}

// orders declares the stream. The call is the same whether the stream exists or not.
func orders(ctx context.Context, b *bus.Bus) (*bus.Stream, error) {
	return b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: bus.Subjects(orderPlaced)})
}

func firstRun(ctx context.Context, w io.Writer, b *bus.Bus) error {
	st, err := orders(ctx, b)
	if err != nil {
		return err
	}
	for _, id := range []string{"eu-1", "eu-2"} {
		if err := store(ctx, w, st, id); err != nil {
			return err
		}
	}
	billing, bills, err := bill(ctx, st)
	if err != nil {
		return err
	}
	for range 2 {
		if err := printHandled(ctx, w, bills); err != nil {
			return err
		}
	}
	if err := billing.Drain(ctx); err != nil {
		return err
	}
	fmt.Fprintln(w, "   billing stops; more orders come")
	for _, id := range []string{"eu-3", "eu-4", "eu-3"} {
		if err := store(ctx, w, st, id); err != nil {
			return err
		}
	}
	return nil
}

func secondRun(ctx context.Context, w io.Writer, b *bus.Bus) error {
	st, err := orders(ctx, b)
	if err != nil {
		return err
	}
	_, bills, err := bill(ctx, st)
	if err != nil {
		return err
	}
	for range 2 {
		if err := printHandled(ctx, w, bills); err != nil {
			return err
		}
	}
	return nil
}

// store stores an order. The ID of the order is the ID of the message, so an order that is sent twice is
// stored once.
func store(ctx context.Context, w io.Writer, st *bus.Stream, id string) error {
	ack, err := bus.PublishTo(ctx, st, orderPlaced.At("eu"), order{ID: id, Cents: 995}, bus.MsgID(id))
	if err != nil {
		return err
	}
	if ack.Duplicate {
		fmt.Fprintf(w, "   order %s was there already as message %d\n", id, ack.Sequence)
		return nil
	}
	fmt.Fprintf(w, "   stored order %s as message %d\n", id, ack.Sequence)
	return nil
}

// bill starts the durable consumer "billing". It sends each handled order to the returned channel.
func bill(ctx context.Context, st *bus.Stream) (*bus.Consumer, <-chan *bus.Msg[order], error) {
	bills := make(chan *bus.Msg[order], 16)
	con, err := bus.Consume(ctx, st, "billing", orderPlaced, func(_ context.Context, m *bus.Msg[order]) error {
		bills <- m
		return nil
	})
	return con, bills, err
}

func printHandled(ctx context.Context, w io.Writer, bills <-chan *bus.Msg[order]) error {
	m, err := next(ctx, bills)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "   billing handled order %s, message %d\n", m.Data.ID, m.Sequence)
	return nil
}
