// A program that uses an existing server, with every verb of the bus. What it
// links is what such a program pays for.
package main

import (
	"context"
	"log"
	"os"

	"github.com/omnibus-go/bus"
)

type note struct{ Text string }

const (
	notes bus.Subject[note]        = "app.notes"
	echo  bus.Endpoint[note, note] = "app.echo"
)

func main() {
	b, err := bus.Connect(context.Background(), os.Args[1], bus.FromEnv())
	if err != nil {
		log.Fatal(err)
	}
	if err := use(context.Background(), b); err != nil {
		log.Print(err)
	}
	if err := b.Close(); err != nil {
		log.Print(err)
	}
}

func use(ctx context.Context, b *bus.Bus) error {
	handle := func(_ context.Context, m *bus.Msg[note]) error { log.Print(m.Data); return nil }
	answer := func(_ context.Context, m *bus.Msg[note]) (note, error) { return m.Data, nil }
	if _, err := bus.Subscribe(b, notes, handle); err != nil {
		return err
	}
	if _, err := bus.Respond(b, echo, answer); err != nil {
		return err
	}
	if err := bus.Publish(ctx, b, notes, note{"hello"}); err != nil {
		return err
	}
	if _, err := bus.Request(ctx, b, echo, note{"hello"}); err != nil {
		return err
	}
	st, err := b.Stream(ctx, bus.StreamConfig{Name: "LOG", Subjects: []string{"app.log"}})
	if err != nil {
		return err
	}
	if _, err := bus.Consume(ctx, st, "reader", "app.log", handle); err != nil {
		return err
	}
	_, err = bus.PublishTo(ctx, st, "app.log", note{"kept"})
	return err
}
