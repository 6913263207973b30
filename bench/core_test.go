package bench

import (
	"context"
	"encoding/json"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
)

// window is how many messages the publisher may be ahead of the handler. Without a limit the backlog
// would grow, and the benchmark would measure that.
const window = 32 << 10

// flow publishes b.N messages and waits until all are handled.
func flow(b *testing.B, handled *atomic.Int64, publish func() error) {
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := publish(); err != nil {
			b.Fatal(err)
		}
		if i%1024 == 0 {
			for int64(i)-handled.Load() > window {
				time.Sleep(20 * time.Microsecond)
			}
		}
	}
	for handled.Load() < int64(b.N) {
		time.Sleep(20 * time.Microsecond)
	}
}

func BenchmarkPublishBytes(b *testing.B) {
	payload := make([]byte, 128)
	b.Run("raw", func(b *testing.B) {
		nc := raw(b, "")
		var handled atomic.Int64
		if _, err := nc.Subscribe("a.b", func(*nats.Msg) { handled.Add(1) }); err != nil {
			b.Fatal(err)
		}
		flow(b, &handled, func() error { return nc.Publish("a.b", payload) })
	})
	b.Run("bus", func(b *testing.B) {
		o := omnibus(b, "")
		var handled atomic.Int64
		_, err := bus.Subscribe(o, "a.b", func(context.Context, *bus.Msg[[]byte]) error { handled.Add(1); return nil })
		if err != nil {
			b.Fatal(err)
		}
		ctx := context.Background()
		flow(b, &handled, func() error { return bus.Publish(ctx, o, "a.b", payload) })
	})
}

type order struct {
	ID       string  `json:"id"`
	Customer string  `json:"customer"`
	Amount   float64 `json:"amount"`
	Items    int     `json:"items"`
}

func BenchmarkPublishJSON(b *testing.B) {
	v := order{ID: "o-1234567", Customer: "c-42", Amount: 99.5, Items: 3}
	b.Run("raw", func(b *testing.B) {
		nc := raw(b, "")
		var handled atomic.Int64
		_, err := nc.Subscribe("a.b", func(m *nats.Msg) {
			var o order
			if json.Unmarshal(m.Data, &o) == nil {
				handled.Add(1)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		flow(b, &handled, func() error {
			data, err := json.Marshal(v)
			if err != nil {
				return err
			}
			return nc.Publish("a.b", data)
		})
	})
	b.Run("bus", func(b *testing.B) {
		o := omnibus(b, "")
		var handled atomic.Int64
		_, err := bus.Subscribe(o, "a.b", func(context.Context, *bus.Msg[order]) error { handled.Add(1); return nil })
		if err != nil {
			b.Fatal(err)
		}
		ctx := context.Background()
		flow(b, &handled, func() error { return bus.Publish(ctx, o, "a.b", v) })
	})
}

func BenchmarkRequest(b *testing.B) {
	payload := make([]byte, 128)
	b.Run("raw", func(b *testing.B) {
		nc := raw(b, "")
		if _, err := nc.Subscribe("q", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := nc.Request("q", payload, 5*time.Second); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bus", func(b *testing.B) {
		o := omnibus(b, "")
		_, err := bus.Respond(o, "q", func(_ context.Context, m *bus.Msg[[]byte]) ([]byte, error) { return m.Data, nil })
		if err != nil {
			b.Fatal(err)
		}
		ctx := context.Background()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := bus.Request[[]byte](ctx, o, "q", payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkStartStop compares New and Close with a plain server and connection.
func BenchmarkStartStop(b *testing.B) {
	b.Run("raw", func(b *testing.B) {
		for b.Loop() {
			startStopRaw(b)
		}
	})
	b.Run("bus", func(b *testing.B) {
		for b.Loop() {
			o, err := bus.New(bus.WithLogger(hclog.NewNullLogger()))
			if err != nil {
				b.Fatal(err)
			}
			if err := o.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func startStopRaw(b *testing.B) {
	dir, err := os.MkdirTemp("", "raw-") //nolint:usetesting // the bus makes and removes a directory too
	if err != nil {
		b.Fatal(err)
	}
	s := startServer(b, dir)
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		b.Fatal(err)
	}
	nc.Close()
	s.Shutdown()
	s.WaitForShutdown()
	if err := os.RemoveAll(dir); err != nil {
		b.Fatal(err)
	}
}
