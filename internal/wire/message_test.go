package wire_test

import (
	"testing"

	"github.com/omnibus-go/bus/internal/wire"
)

func TestDeliverySize(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		d    wire.Delivery
		want int
	}{
		"empty":     {wire.Delivery{}, 0},
		"no header": {wire.Delivery{In: wire.In{Subject: "abc", Reply: "de", Data: make([]byte, 10)}, Stored: &wire.Stored{Stream: "S"}}, 15},
		"header":    {wire.Delivery{In: wire.In{Subject: "abc", Header: wire.Header{"K": {"v", "ww"}, "Empty": nil}}}, 3 + 6 + 7},
	} {
		if got := test.d.Size(); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
