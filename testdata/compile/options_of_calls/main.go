// An option is accepted only where it does something.
package main

import (
	"context"
	"time"

	"github.com/omnibus-go/bus"
)

type note struct{ Text string }

const (
	notes bus.Subject[note]        = "app.notes"
	echo  bus.Endpoint[note, note] = "app.echo"
)

func handle(context.Context, *bus.Msg[note]) error { return nil }

func answer(context.Context, *bus.Msg[note]) (note, error) { return note{}, nil }

func main() {
	ctx := context.Background()
	var b *bus.Bus
	var st *bus.Stream

	bus.Publish(ctx, b, notes, note{}, bus.Concurrency(4))       // want `bus\.HandlerOption does not implement bus\.PublishOption`
	bus.Publish(ctx, b, notes, note{}, bus.Queue("workers"))     // want `bus\.coreOption does not implement bus\.PublishOption`
	bus.Publish(ctx, b, notes, note{}, bus.AckWait(time.Second)) // want `bus\.ConsumeOption does not implement bus\.PublishOption`
	bus.Publish(ctx, b, notes, note{}, bus.WithName("notes"))    // want `bus\.ConnectOption does not implement bus\.PublishOption`
	bus.PublishTo(ctx, st, notes, note{}, bus.Queue("workers"))  // want `bus\.coreOption does not implement bus\.StoreOption`
	bus.Publish(ctx, b, notes, note{}, bus.TTL(time.Second))     // want `bus\.StoreOption does not implement bus\.PublishOption`
	bus.Request(ctx, b, echo, note{}, bus.MsgID("1"))            // want `bus\.msgIDOption does not implement bus\.RequestOption`
	bus.Request(ctx, b, echo, note{}, bus.Queue("workers"))      // want `bus\.coreOption does not implement bus\.RequestOption`

	bus.Subscribe(b, notes, handle, bus.AckWait(time.Second))         // want `bus\.ConsumeOption does not implement bus\.SubscribeOption`
	bus.Subscribe(b, notes, handle, bus.Retry(bus.RetryPolicy{}))     // want `bus\.ConsumeOption does not implement bus\.SubscribeOption`
	bus.Subscribe(b, notes, handle, bus.MsgID("1"))                   // want `bus\.msgIDOption does not implement bus\.SubscribeOption`
	bus.Subscribe(b, notes, handle, bus.WithHeader("A", "b"))         // want `bus\.MessageOption does not implement bus\.SubscribeOption`
	bus.Respond(b, echo, answer, bus.AckWait(time.Second))            // want `bus\.ConsumeOption does not implement bus\.RespondOption`
	bus.Consume(ctx, st, "d", notes, handle, bus.PendingLimits(1, 1)) // want `bus\.coreOption does not implement bus\.ConsumeOption`
	bus.Consume(ctx, st, "d", notes, handle, bus.Queue("workers"))    // want `bus\.coreOption does not implement bus\.ConsumeOption`

	bus.Publish(ctx, b, notes, note{}, bus.MsgID("1"), bus.WithHeader("A", "b"))
	bus.PublishTo(ctx, st, notes, note{}, bus.MsgID("1"), bus.WithHeader("A", "b"))
	bus.Request(ctx, b, echo, note{}, bus.WithHeader("A", "b"))
	bus.Subscribe(b, notes, handle, bus.Queue("workers"), bus.PendingLimits(1, 1), bus.Concurrency(4))
	bus.Respond(b, echo, answer, bus.Queue("workers"), bus.PendingLimits(1, 1), bus.Concurrency(4))
	bus.Consume(ctx, st, "d", notes, handle, bus.AckWait(time.Second), bus.Retry(bus.RetryPolicy{}), bus.Concurrency(4))
}
