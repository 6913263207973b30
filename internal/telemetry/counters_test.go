package telemetry_test

import (
	"reflect"
	"testing"
	"unsafe"

	"github.com/omnibus-go/bus/internal/telemetry"
)

const line = 64

func TestPublishersHaveTheirOwnLines(t *testing.T) {
	var b telemetry.Bus
	if gap := unsafe.Offsetof(b.Unrouted) - unsafe.Offsetof(b.CompressedBytes); gap < 2*line {
		t.Errorf("publishers and the rest are %d bytes apart", gap)
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
