package recovery

import (
	"math"
	"testing"

	"github.com/omnibus-go/bus/internal/sidestream"
)

func FuzzRecords(f *testing.F) {
	f.Add([]byte(`[{"source":1,"position":7,"deliveries":2,"attempts":1},{"position":8,"deliveries":1,"dead":{"cause":"error","error":"no","attempts":25}}]`))
	f.Add([]byte(`[{"position":1,"deliveries":9223372036854775807,"attempts":9223372036854775807,"dead":{"attempts":-1}}]`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseRecords(data)
		if err != nil && len(all) > 0 {
			t.Error("there are records and an error")
		}
		for _, h := range all {
			if h.Attempts < 0 || h.Attempts > sidestream.MaxAttempts || h.Deliveries < 0 || h.Deliveries >= math.MaxInt32 {
				t.Errorf("got %+v", h)
			}
			if d := h.Dead; d != nil && (d.Attempts < 0 || d.Attempts > sidestream.MaxAttempts || len(d.Error) > sidestream.MaxError) {
				t.Errorf("got %+v", d)
			}
		}
	})
}
