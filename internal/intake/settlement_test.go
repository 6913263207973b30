package intake_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

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
	o := newOrigin(t)
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
	o := newOrigin(t)
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
