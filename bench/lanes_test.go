package bench

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
)

// BenchmarkLanes handles messages of one key, one after the other, and of eight keys, in parallel. A
// handler takes 1 ms.
func BenchmarkLanes(b *testing.B) {
	for _, v := range []struct {
		name string
		keys int
	}{{"one", 1}, {"eight", 8}} {
		b.Run(v.name, func(b *testing.B) {
			o := omnibus(b, b.TempDir())
			st := busStream(b, o)
			fill(b, o.JetStream(), v.keys)
			done := make(chan struct{})
			var handled atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			_, err := bus.Consume(context.Background(), st, "d", "s.>", func(context.Context, *bus.Msg[[]byte]) error {
				time.Sleep(time.Millisecond)
				if handled.Add(1) == int64(b.N) {
					close(done)
				}
				return nil
			}, bus.KeyByToken(2), bus.Concurrency(8))
			if err != nil {
				b.Fatal(err)
			}
			<-done
		})
	}
}
