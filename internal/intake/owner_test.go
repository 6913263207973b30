package intake_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

var errEarlier = errors.New("it failed where it was before")

// ownerStub is a Owner that a test controls.
type ownerStub struct {
	mu      sync.Mutex
	before  map[uint64]error // settled by an owner before, by position; nil: as done
	refuses bool
	full    int // so many times there is no room for a dead letter
	sent    []uint64
	settled []uint64
	thens   sync.WaitGroup
	halted  chan struct{} // closed by Halt
}

func (c *ownerStub) SettledBefore(d *wire.Delivery) bool {
	dead, settled := c.before[d.Stored.SourceSequence]
	d.Stored.Dead = dead
	return settled
}

func (c *ownerStub) Settle(d *wire.Delivery, then func(ok bool)) {
	c.mu.Lock()
	c.settled = append(c.settled, d.Stored.SourceSequence)
	refuses := c.refuses
	c.mu.Unlock()
	c.thens.Go(func() { then(!refuses) })
}

func (c *ownerStub) MarkDead(d *wire.Delivery, then func(ok bool)) (room bool) {
	c.mu.Lock()
	full := c.full > 0
	c.full--
	c.mu.Unlock()
	if full {
		return false
	}
	c.Settle(d, then)
	return true
}

func (c *ownerStub) SettlementSent(d *wire.Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = append(c.sent, d.Stored.SourceSequence)
}

func (c *ownerStub) Forget(func(int, uint64) bool) {}

func (c *ownerStub) Halt() { close(c.halted) }

func (c *ownerStub) Flush(context.Context) error {
	c.thens.Wait()
	return nil
}

// openOwned makes a Durable with a claim, for messages without keys.
func openOwned(t *testing.T, o *fakeServer, c *ownerStub, run func(wire.Delivery) settle.Outcome, writeDeadLetter func(wire.Delivery) error, more ...intake.Source) *intake.Durable {
	t.Helper()
	d, err := intake.OpenDurable(o.link, intake.DurableConfig{
		Source: intake.Source{Next: nextSubject}, More: more, Concurrency: 4, Window: window, AckWait: 30 * time.Second,
		Policy: settle.Policy{MaxAttempts: 1}, Timeout: 5 * time.Second, Run: run, WriteDeadLetter: writeDeadLetter, Owner: c,
		Settling: func(wire.Delivery, string) func(error) { return func(error) {} },
		Report:   func(error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Start()
	return d
}

// What an owner before has settled is settled again without a handler, each in the
// way in which it was.
func TestSettledByAnOwnerBefore(t *testing.T) {
	t.Parallel()
	o := newFakeServer(t)
	c := &ownerStub{before: map[uint64]error{1: nil, 2: errEarlier}, halted: make(chan struct{})}
	var buried error
	d := openOwned(t, o, c, func(del wire.Delivery) settle.Outcome {
		if del.Stored.SourceSequence != 3 {
			t.Errorf("message %d is handled", del.Stored.SourceSequence)
		}
		return done
	}, func(del wire.Delivery) error {
		buried = del.Stored.Dead
		return nil
	})
	inbox := o.pulled().inbox
	for seq, want := range []string{"+ACK", "+TERM", "+ACK"} {
		o.send(inbox, uint64(seq+1), 1)
		if s := o.settled(); s.seq != uint64(seq+1) || s.body != want {
			t.Errorf("settlement %+v, want %s of %d", s, want, seq+1)
		}
	}
	if !errors.Is(buried, errEarlier) {
		t.Errorf("buried for %v", buried)
	}
	if err := d.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if slices.Sort(c.sent); !slices.Equal(c.sent, []uint64{1, 2, 3}) {
		t.Errorf("recorded as sent: %v", c.sent)
	}
}

// Who may not settle tells the server nothing, and writes no dead letter.
func TestSettlementsThatAreRefused(t *testing.T) {
	t.Parallel()
	o := newFakeServer(t)
	c := &ownerStub{refuses: true}
	ran := make(chan struct{}, 2)
	d := openOwned(t, o, c, func(del wire.Delivery) settle.Outcome {
		defer func() { ran <- struct{}{} }()
		if del.Stored.SourceSequence == 1 {
			return done
		}
		return failed
	}, func(wire.Delivery) error {
		t.Error("a dead letter is written")
		return nil
	})
	inbox := o.pulled().inbox
	o.send(inbox, 1, 1)
	o.send(inbox, 2, 1)
	<-ran
	<-ran
	if err := d.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	d.Abandon()
	d.Abandon() // again does nothing
	if err := d.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	o.flush()
	if _, settled := o.all(); len(settled) > 0 {
		t.Errorf("the server was reported %+v", settled)
	}
	if !closed(d.Done()) {
		t.Error("Done is open")
	}
}

// What cannot be recorded as a dead letter for now is tried again, without a handler.
func TestDeadLettersThatWaitForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		c := &ownerStub{full: 3, halted: make(chan struct{})}
		var handled, buried atomic.Int64
		d := openOwned(t, o, c, func(wire.Delivery) settle.Outcome {
			handled.Add(1)
			return failed
		}, func(wire.Delivery) error {
			buried.Add(1)
			return nil
		})
		o.send(o.pulled().inbox, 1, 1)
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		if handled.Load() != 1 || buried.Load() != 0 {
			t.Errorf("handled %d times, buried %d times without room", handled.Load(), buried.Load())
		}
		if s := o.settled(); s.seq != 1 || s.body != "+TERM" || buried.Load() != 1 || handled.Load() != 1 {
			t.Errorf("settlement %+v after %d letters and %d calls", s, buried.Load(), handled.Load())
		}
		if err := d.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What nobody has begun is given back, and is no failure.
func TestReturnedMessagesAreGivenBack(t *testing.T) {
	t.Parallel()
	o := newFakeServer(t)
	began := make(chan struct{})
	c := &ownerStub{halted: make(chan struct{})}
	d := openOwned(t, o, c, func(wire.Delivery) settle.Outcome {
		close(began)
		<-c.halted
		return settle.Outcome{Returned: true}
	}, nil)
	o.send(o.pulled().inbox, 1, 1)
	<-began
	if err := d.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if s := o.settled(); s.seq != 1 || s.body != "-NAK 0s" {
		t.Errorf("settlement %+v", s)
	}
}
