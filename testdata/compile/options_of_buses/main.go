// Connect takes no option of the embedded server.
package main

import (
	"context"
	"time"

	"github.com/omnibus-go/bus"
)

func main() {
	ctx, url := context.Background(), "nats://127.0.0.1:4222"

	bus.Connect(ctx, url, bus.WithStoreDir("data"))     // want `bus\.Option does not implement bus\.ConnectOption`
	bus.Connect(ctx, url, bus.WithListen(":0"))         // want `bus\.Option does not implement bus\.ConnectOption`
	bus.Connect(ctx, url, bus.WithURL(url))             // want `bus\.Option does not implement bus\.ConnectOption`
	bus.Connect(ctx, url, bus.WithSync(bus.SyncAlways)) // want `bus\.Option does not implement bus\.ConnectOption`
	bus.Connect(ctx, url, bus.WithMaxMemory(1<<20))     // want `bus\.Option does not implement bus\.ConnectOption`
	bus.Connect(ctx, url, bus.WithMaxStore(1<<20))      // want `bus\.Option does not implement bus\.ConnectOption`
	bus.Connect(ctx, url, bus.WithMaxPayload(1<<20))    // want `bus\.Option does not implement bus\.ConnectOption`
	bus.Connect(ctx, url, bus.WithServerOptions(nil))   // want `bus\.Option does not implement bus\.ConnectOption`
	bus.Connect(ctx, url, bus.Concurrency(4))           // want `bus\.HandlerOption does not implement bus\.ConnectOption`
	bus.New(bus.Queue("workers"))                       // want `bus\.coreOption does not implement bus\.Option`
	bus.New(bus.MsgID("1"))                             // want `bus\.msgIDOption does not implement bus\.Option`
	bus.New(nil, 4)                                     // want `int does not implement bus\.Option`

	bus.Connect(ctx, url, bus.WithName("a"), bus.WithTimeout(time.Second), bus.WithToken("t"), bus.FromEnv())
	bus.New(bus.WithURL(url), bus.WithStoreDir("data"), bus.WithName("a"), bus.WithToken("t"), bus.FromEnv())
}
