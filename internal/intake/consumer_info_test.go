package intake_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestDurableEndsWhenItsConsumerIsDeleted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return done })
		d.Start()
		r := o.pulled()
		for range 3 { // one for each pull that waits
			o.status(r.inbox, "409", "Consumer Deleted", -1)
		}
		time.Sleep(time.Hour)
		if more, _ := o.all(); len(more) > 0 {
			t.Errorf("it asked for %+v", more)
		}
		if errs := d.list(); len(errs) != 1 || !errors.Is(errs[0], intake.ErrConsumerDeleted) {
			t.Errorf("reported %v", errs)
		}
		if !errors.Is(d.Err(), intake.ErrConsumerDeleted) {
			t.Errorf("Err is %v", d.Err())
		}
		d.drained(t)
		if !errors.Is(d.Err(), intake.ErrConsumerDeleted) {
			t.Errorf("after Drain Err is %v", d.Err())
		}
	})
}
