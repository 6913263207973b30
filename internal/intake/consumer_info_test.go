package intake_test

import (
	"context"
	"errors"
	"sync/atomic"
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

// That the consumer of deferred messages is gone is reported once. It is made again by
// whoever can, as often as it takes.
func TestDurableRecreatesASource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		var recreated atomic.Int64
		o.answer = func(conn *fakeConn, e event) {
			exists := recreated.Load() >= 3
			switch {
			case e.subject == "next.R.C" && !exists:
				conn.deliverHeader(e.reply, "", "NATS/1.0 503")
			case e.subject == "info.R.C" && !exists:
				conn.deliver(e.reply, "", `{"type":"io.nats.jetstream.api.v1.consumer_info_response","error":{"err_code":10014}}`)
			case e.subject == "info.R.C":
				conn.deliver(e.reply, "", `{"type":"io.nats.jetstream.api.v1.consumer_info_response"}`)
			}
		}
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return done }, func(c *intake.DurableConfig) {
			c.More = []intake.Source{{Next: "next.R.C", Info: "info.R.C", Recreate: func(ctx context.Context) error {
				if recreated.Add(1); ctx.Err() != nil {
					t.Error("the context has ended")
				}
				return nil
			}}}
		})
		d.Start()
		time.Sleep(time.Minute)
		synctest.Wait()
		gone := 0
		for _, err := range d.list() {
			if errors.Is(err, intake.ErrSourceGone) {
				gone++
			}
		}
		if gone != 1 || recreated.Load() != 3 {
			t.Errorf("reported %d times, recreated %d times", gone, recreated.Load())
		}
		d.Abandon()
	})
}
