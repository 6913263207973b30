package intake_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/wire"
)

// What cannot be read stays here while the intake is quiesced, however long. Then it is returned, and
// known when it comes again. It is reported once.
func TestUnreadableWhileQuiesced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		why := &intake.UnreadableError{Stream: "S-retry", Position: 1, Err: errors.New("odd")}
		d := open(t, o, 1, nil, func(c *intake.DurableConfig) {
			c.Restore = func(*wire.Delivery) error { return why }
		})
		d.Start()
		r := o.pulled()
		o.send(r.inbox, 1, 1)
		synctest.Wait()
		if err := d.Quiesce(t.Context()); err != nil {
			t.Error(err)
		}
		o.status(r.inbox, "408", "Request Timeout", r.Batch-1) // nothing more is asked for
		time.Sleep(61 * time.Second)
		d.mustKeep(t, why)
		o.mustHaveSettled()
		d.Resume()
		synctest.Wait()
		o.mustHaveSettled(settlement{1, 1, "-NAK 0s"})
		if err := d.Stalled(); err != nil {
			t.Errorf("nothing is kept, and still %v", err)
		}
		d.Resume() // the maintainer looks again before it comes
		synctest.Wait()
		o.send(r.inbox, 1, 2)
		synctest.Wait()
		d.mustKeep(t, why)
		d.drained(t)
		o.mustHaveSettled(settlement{1, 2, "-NAK 0s"})
	})
}

// What cannot be read is returned before Freeze or after thaw, and the maintainer does not wait for that:
// what is held is kept alive meanwhile.
func TestUnreadableIsReturnedAroundAFreeze(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		d := open(t, o, 1, nil, func(c *intake.DurableConfig) {
			c.Restore = func(*wire.Delivery) error { return &intake.UnreadableError{Err: errors.New("odd")} }
		})
		d.Start()
		r := o.pulled()
		const messages = 200
		for round := 1; round <= 40; round++ {
			for sequence := uint64(1); sequence <= messages; sequence++ {
				o.send(r.inbox, sequence, round)
			}
			synctest.Wait()
			time.Sleep(10 * time.Second) // at this moment they are returned
			held, thaw, err := d.Freeze(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			o.all()
			time.Sleep(15 * time.Second) // half of AckWait
			_, signals := o.all()
			if n := len(held[""]); n > 0 && n < messages || len(signals) < n {
				t.Errorf("%d messages are held, and %d in-progress signals were sent", n, len(signals))
			}
			for _, s := range signals {
				if s.body != "+WPI" {
					t.Fatalf("while settlements are frozen: %+v", s)
				}
			}
			thaw()
			time.Sleep(10 * time.Second)
			if n := d.Held(); n > 0 {
				t.Errorf("%d messages are held after all", n)
			}
		}
		d.drained(t)
	})
}

// mustKeep fails the test unless a message is kept, for a reason that was reported once.
func (d *durable) mustKeep(t *testing.T, why error) {
	t.Helper()
	if err := d.Stalled(); err != why {
		t.Errorf("the problem is %v", err)
	}
	if all := d.list(); len(all) != 1 || all[0] != why {
		t.Errorf("reported is %v", all)
	}
}

// mustHaveSettled fails the test unless this is what was settled since the last look. In-progress
// signals settle nothing.
func (o *fakeServer) mustHaveSettled(want ...settlement) {
	o.t.Helper()
	_, all := o.all()
	all = slices.DeleteFunc(all, func(s settlement) bool { return s.body == "+WPI" })
	if !slices.Equal(all, want) {
		o.t.Errorf("settled was %v, want %v", all, want)
	}
}
