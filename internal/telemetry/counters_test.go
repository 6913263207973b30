package telemetry_test

import (
	"reflect"
	"sync"
	"testing"
	"unsafe"

	"github.com/omnibus-go/bus/internal/telemetry"
)

const line = 64

func TestBusKeepsItsSidesApart(t *testing.T) {
	var b telemetry.Bus
	sent, received, rare := unsafe.Offsetof(b.CompressedBytes), unsafe.Offsetof(b.Received), unsafe.Offsetof(b.Reconnects)
	if received-sent < 2*line {
		t.Errorf("publishers and receivers are %d bytes apart", received-sent)
	}
	if last := unsafe.Offsetof(b.Unrouted); rare-last < 2*line {
		t.Errorf("receivers and the rest are %d bytes apart", rare-last)
	}
}

func TestHandlerKeepsItsSidesApartAndSmall(t *testing.T) {
	var h telemetry.Handler
	if gap := unsafe.Offsetof(h.Handled) - unsafe.Offsetof(h.Redelivered); gap < line {
		t.Errorf("intake and workers are %d bytes apart", gap)
	}
	if size := unsafe.Sizeof(h); size > 2*line {
		t.Errorf("a Handler takes %d bytes", size)
	}
}

// Every exported counter of both structs starts at zero and counts.
func TestCountersCount(t *testing.T) {
	for _, v := range []any{new(telemetry.Bus), new(telemetry.Handler)} {
		s := reflect.ValueOf(v).Elem()
		for i := range s.NumField() {
			if !s.Type().Field(i).IsExported() {
				continue
			}
			c, ok := s.Field(i).Addr().Interface().(interface {
				Add(int64) int64
				Load() int64
			})
			if ok && (c.Add(2) != 2 || c.Load() != 2) {
				t.Errorf("%T.%s does not count", v, s.Type().Field(i).Name)
			}
		}
	}
}

// One goroutine takes messages in while another handles them.
func BenchmarkHandlerBothSides(b *testing.B) {
	var h telemetry.Handler
	var wg sync.WaitGroup
	wg.Go(func() {
		for range b.N {
			h.Received.Add(1)
		}
	})
	for range b.N {
		h.InFlight.Add(1)
		h.Handled.Add(1)
		h.InFlight.Add(-1)
	}
	wg.Wait()
}
