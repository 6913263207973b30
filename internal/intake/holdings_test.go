package intake_test

import (
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
)

// Freeze returns what is not settled, and nothing is settled until thaw. What handlers return
// meanwhile is settled then.
func TestFreeze(t *testing.T) {
	t.Parallel()
	eachDetachable(t, func(t *testing.T, d *detachable) {
		release := d.block()
		d.publish(20)
		d.await("begun", func() int64 { return min(d.begun.Load(), 1) }, 1)
		quick, _ := ended(t)
		_ = d.Quiesce(quick)
		if err := intake.Detach(t.Context(), d.Durable); err != nil {
			t.Fatal(err)
		}
		held, thaw, err := d.Freeze(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all := held["$JS.API.CONSUMER.INFO.S.C"]
		if len(all) != d.info().NumAckPending || len(all) != d.Held() {
			t.Errorf("%d are held, and the server counts %d", len(all), d.info().NumAckPending)
		}
		for _, h := range all {
			if h.Sequence == 0 || h.Delivery == 0 || h.Deliveries == 0 {
				t.Errorf("held: %+v", h)
			}
		}
		ran := int(d.begun.Load())
		release()
		for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); { // handlers return
			if n := d.info().NumAckPending; n != len(all) {
				t.Fatalf("%d were settled although they are frozen", len(all)-n)
			}
		}
		thaw()
		d.await("settled", func() int64 { return int64(len(all) - d.info().NumAckPending) }, int64(ran))
		held, thaw, err = d.Freeze(t.Context())
		thaw()
		if now := held["$JS.API.CONSUMER.INFO.S.C"]; err != nil || len(now) != len(all)-ran {
			t.Errorf("%d are held, %v", len(now), err)
		}
		d.Resume()
		d.await("handled", d.handled.Load, 20)
		if err := d.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
	})
}

// When its context ends first Freeze says why, and thaw lets settlements go on.
func TestFreezeInVain(t *testing.T) {
	t.Parallel()
	eachDetachable(t, func(t *testing.T, d *detachable) {
		ctx, _ := ended(t)
		_, thaw, err := d.Freeze(ctx) // nothing is being settled, so it need not wait
		thaw()
		if err != nil {
			t.Error(err)
		}
		d.publish(10)
		d.await("handled", d.handled.Load, 10)
		if err := d.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
	})
}
