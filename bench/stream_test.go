package bench

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
)

// storages are the storage types of a stream. Neither syncs each message.
var storages = []struct {
	name    string
	storage jetstream.StorageType
	onDisk  bool
}{{"memory", jetstream.MemoryStorage, false}, {"file", jetstream.FileStorage, true}}

func BenchmarkPublishTo(b *testing.B) {
	payload := make([]byte, 128)
	ctx := context.Background()
	for _, s := range storages {
		b.Run(s.name+"/raw", func(b *testing.B) {
			js := rawStream(b, raw(b, ""), s.storage)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := js.Publish(ctx, "s.a", payload); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(s.name+"/bus", func(b *testing.B) {
			st := busStream(b, omnibus(b, dirFor(b, s.onDisk)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bus.PublishTo(ctx, st, "s.a", payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPublishToAsync has at most 1024 messages without an acknowledgement, the default of a bus.
func BenchmarkPublishToAsync(b *testing.B) {
	payload := make([]byte, 128)
	ctx := context.Background()
	for _, s := range storages {
		b.Run(s.name+"/raw", func(b *testing.B) {
			nc := raw(b, "")
			rawStream(b, nc, s.storage)
			js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1024))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := js.PublishAsync("s.a", payload, jetstream.WithStallWait(time.Minute)); err != nil {
					b.Fatal(err)
				}
			}
			<-js.PublishAsyncComplete()
		})
		b.Run(s.name+"/bus", func(b *testing.B) {
			o := omnibus(b, dirFor(b, s.onDisk))
			st := busStream(b, o)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bus.PublishToAsync(ctx, st, "s.a", payload); err != nil {
					b.Fatal(err)
				}
			}
			if err := o.Flush(ctx); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func dirFor(b *testing.B, onDisk bool) string {
	if !onDisk {
		return ""
	}
	return b.TempDir()
}

// BenchmarkConsume handles and acknowledges b.N stored messages. Both consumers have a filter, which
// costs the server an allocation.
func BenchmarkConsume(b *testing.B) {
	ctx := context.Background()
	b.Run("raw", func(b *testing.B) {
		js := rawStream(b, raw(b, ""), jetstream.FileStorage)
		fill(b, js, 1)
		con, err := js.CreateConsumer(ctx, "S", jetstream.ConsumerConfig{Durable: "d", FilterSubject: "s.>", AckPolicy: jetstream.AckExplicitPolicy})
		if err != nil {
			b.Fatal(err)
		}
		done := make(chan struct{})
		var handled atomic.Int64
		b.ReportAllocs()
		b.ResetTimer()
		cc, err := con.Consume(func(m jetstream.Msg) {
			if err := m.Ack(); err != nil {
				b.Error(err)
			}
			if handled.Add(1) == int64(b.N) {
				close(done)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		<-done
		b.StopTimer()
		cc.Stop()
	})
	b.Run("bus", func(b *testing.B) {
		o := omnibus(b, b.TempDir())
		st := busStream(b, o)
		fill(b, o.JetStream(), 1)
		done := make(chan struct{})
		var handled atomic.Int64
		b.ReportAllocs()
		b.ResetTimer()
		_, err := bus.Consume(ctx, st, "d", "s.>", func(context.Context, *bus.Msg[[]byte]) error {
			if handled.Add(1) == int64(b.N) {
				close(done)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		<-done
	})
}

// fill stores b.N messages on that many subjects in turn.
func fill(b *testing.B, js jetstream.JetStream, subjects int) {
	b.Helper()
	payload := make([]byte, 128)
	for i := range b.N {
		if _, err := js.PublishAsync("s."+strconv.Itoa(i%subjects), payload); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
}
