package intake

import (
	"context"
	"testing"

	"github.com/omnibus-go/bus/internal/wire"
)

// It is found out once that a message was removed, also if it goes back behind another one.
func TestRemovedIsFoundOnce(t *testing.T) {
	t.Parallel()
	asked := 0
	d := &Durable{cfg: DurableConfig{IsRemoved: func(context.Context, *wire.Delivery) bool {
		asked++
		return true
	}}}
	del := wire.Delivery{Stored: &wire.Stored{Waited: true, Attempt: 1}}
	if !d.isRemoved(del) || !d.isRemoved(del) || asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
