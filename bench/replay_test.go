package bench

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
)

// BenchmarkReplay reads b.N stored messages.
func BenchmarkReplay(b *testing.B) {
	ctx := context.Background()
	for _, s := range storages {
		b.Run(s.name+"/raw", func(b *testing.B) {
			js := rawStream(b, raw(b, dirFor(b, s.onDisk)), s.storage)
			fill(b, js, 1)
			b.ReportAllocs()
			b.ResetTimer()
			con, err := js.OrderedConsumer(ctx, "S", jetstream.OrderedConsumerConfig{})
			if err != nil {
				b.Fatal(err)
			}
			messages, err := con.Messages()
			if err != nil {
				b.Fatal(err)
			}
			defer messages.Stop()
			for range b.N {
				if _, err := messages.Next(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(s.name+"/bus", func(b *testing.B) {
			o := omnibus(b, dirFor(b, s.onDisk))
			st := busStream(b, o)
			fill(b, o.JetStream(), 1)
			b.ReportAllocs()
			b.ResetTimer()
			n := 0
			for _, err := range bus.Replay[[]byte](ctx, st, "s.>") {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != b.N {
				b.Fatalf("read %d messages of %d", n, b.N)
			}
		})
	}
}
