package intake_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// deadElsewhere is a Recovery that knows of one message that it was to become a dead
// letter in another process.
type deadElsewhere struct {
	handbacks
	sequence uint64
}

func (r *deadElsewhere) Restore(d wire.Delivery) {
	if d.Stored.Sequence == r.sequence {
		d.Stored.Dead = errEarlier
	}
}

// A retry is reported once the intake has decided on it: not for a message that is done,
// given up, or a dead letter already.
func TestDurableReportsARetryOnceItIsDecided(t *testing.T) {
	t.Parallel()
	o := newFakeServer(t)
	var mu sync.Mutex
	var retries, dead []string
	d := open(t, o, 1, func(del wire.Delivery) settle.Outcome {
		switch del.Stored.Sequence {
		case 1:
			return settle.Outcome{Err: errors.New("once"), Permanent: del.Stored.Attempt > 1}
		case 2:
			return settle.Outcome{Err: errors.New("never"), Permanent: true}
		case 3:
			runtime.Goexit()
		case 4:
			t.Error("a message that is a dead letter elsewhere is handled")
		}
		return done
	}, func(c *intake.DurableConfig) {
		c.Policy.MinBackoff, c.Policy.MaxBackoff, c.Policy.MaxAttempts = 1, 1, 2
		c.Recovery = &deadElsewhere{sequence: 4}
		c.Exited = func(wire.Delivery) settle.Outcome { return settle.Outcome{Err: errors.New("exited")} }
		c.Retrying = func(del wire.Delivery, err error) {
			mu.Lock()
			defer mu.Unlock()
			retries = append(retries, fmt.Sprint(del.Stored.Sequence, " ", del.Stored.Attempt, " ", err))
		}
		c.WriteDeadLetter = func(del wire.Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			dead = append(dead, fmt.Sprint(del.Stored.Sequence, " ", del.Stored.Attempt, " ", del.Stored.Dead))
			return nil
		}
	})
	d.Start()
	inbox := o.pulled().inbox
	for seq := range uint64(5) {
		o.send(inbox, seq+1, 1)
	}
	for range 5 {
		o.settled()
	}
	d.drained(t)
	slices.Sort(retries)
	slices.Sort(dead)
	if want := []string{"1 1 once", "3 1 exited"}; !slices.Equal(retries, want) {
		t.Errorf("retries: %q, want %q", retries, want)
	}
	want := []string{"1 2 once", "2 1 never", "3 2 exited", "4 1 " + errEarlier.Error()}
	if !slices.Equal(dead, want) {
		t.Errorf("dead letters: %q, want %q", dead, want)
	}
}

// A handler that ends its goroutine has failed, also where what that means cannot be
// said because that ends the goroutine, too. The message is not lost.
func TestHandlerThatEndsItsGoroutineTwice(t *testing.T) {
	t.Parallel()
	o := newFakeServer(t)
	calls := 0
	d := open(t, o, 1, func(wire.Delivery) settle.Outcome {
		if calls++; calls == 1 {
			runtime.Goexit()
		}
		return done
	}, func(c *intake.DurableConfig) {
		c.Exited = func(wire.Delivery) settle.Outcome {
			runtime.Goexit()
			return done
		}
	})
	d.Start()
	o.send(o.pulled().inbox, 1, 1)
	if s := o.settled(); s.body != "+ACK" || calls != 2 {
		t.Errorf("settlement %+v after %d calls", s, calls)
	}
	d.drained(t)
}

func TestDurableRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		type call struct {
			attempt int
			after   time.Duration // since the call before
		}
		var calls []call
		last := time.Now()
		d := open(t, o, 1, func(del wire.Delivery) settle.Outcome {
			if del.Stored.Sequence != 1 {
				return done
			}
			calls = append(calls, call{del.Stored.Attempt, time.Since(last)})
			last = time.Now()
			switch len(calls) {
			case 3:
				return after(time.Hour)
			case 5:
				return done
			}
			return failed
		})
		d.Start()
		r := o.pulled()
		o.send(r.inbox, 1, 1)
		for seq := uint64(2); seq <= 100; seq++ {
			o.send(r.inbox, seq, 1)
		}
		began := time.Now()
		for range 99 { // the others go on
			if x := o.settled(); x.body != "+ACK" || x.seq == 1 {
				t.Fatalf("settled %+v", x)
			}
		}
		if waited := time.Since(began); waited > time.Millisecond {
			t.Errorf("the others waited %v for the retries of one", waited)
		}
		if x := o.settled(); x.seq != 1 || x.body != "+ACK" || x.delivered != 1 {
			t.Errorf("the failing one was settled with %+v", x)
		}
		for i, want := range []struct{ min, max time.Duration }{
			{0, 0}, {75 * time.Millisecond, 100 * time.Millisecond}, {150 * time.Millisecond, 200 * time.Millisecond},
			{time.Hour, time.Hour}, {600 * time.Millisecond, 800 * time.Millisecond},
		} {
			if c := calls[i]; c.attempt != i+1 || c.after < want.min || c.after > want.max {
				t.Errorf("call %d is attempt %d after %v, want attempt %d after %v to %v", i+1, c.attempt, c.after, i+1, want.min, want.max)
			}
		}
		d.drained(t)
	})
}

// Messages that wait for their next attempt do not fill the window.
func TestDurableWaitingMessagesLeaveRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		d := open(t, o, 4, func(wire.Delivery) settle.Outcome { return after(time.Hour) })
		d.Start()
		seq := uint64(0)
		for range 10 {
			r := o.pulled()
			for range r.Batch {
				seq++
				o.send(r.inbox, seq, 1)
			}
		}
		synctest.Wait()
		if msgs, _ := d.Pending(); msgs != int(seq) {
			t.Errorf("%d of %d messages wait", msgs, seq)
		}
		d.drained(t)
	})
}
