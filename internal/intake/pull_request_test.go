package intake_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// A real consumer's day: partial batches, expired pulls and redeliveries, and
// never more in flight than the window.
func TestDurableNeverHasMoreThanItsWindow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ concurrency, window int }{{1, window}, {7, window}, {100, 400}} {
		t.Run(fmt.Sprint(c.concurrency), func(t *testing.T) {
			t.Parallel()
			const total = 10_000
			seed := uint64(c.concurrency)
			rnd := rand.New(rand.NewPCG(seed, 5))
			o := newFakeServer(t)
			var handled atomic.Int64
			d := open(t, o, c.concurrency, func(wire.Delivery) settle.Outcome { handled.Add(1); return done })
			d.Start()

			// credit is what was asked for and not sent, out what was sent and not
			// settled.
			sent, acked, credit, out, inbox := uint64(0), 0, 0, make(map[uint64]bool), ""
			for acked < total {
				select {
				case e := <-o.events:
					if r, settled := o.parse(e); r != nil {
						credit += r.Batch
						inbox = r.inbox
					} else if settled.body == "+ACK" {
						if !out[settled.seq] {
							t.Fatalf("message %d was acknowledged twice", settled.seq)
						}
						delete(out, settled.seq)
						acked++
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("seed %d: it does not go on: %d sent, %d acknowledged, %d asked for", seed, sent, acked, credit)
				}
				// A worker forgets a message before it acknowledges it, so as many as
				// there are workers may seem one too many.
				if most := c.window + c.concurrency; credit+len(out) > most {
					t.Fatalf("seed %d: %d asked for and %d in flight, more than %d", seed, credit, len(out), most)
				}
				n := rnd.IntN(credit + 1)
				if n == 0 && len(out) == 0 {
					n = credit // nothing is under way that would bring us here again
				}
				for ; n > 0 && sent < total; n-- {
					sent++
					credit--
					out[sent] = true
					o.send(inbox, sent, 1)
				}
				if rnd.IntN(20) == 0 { // the pull ends early
					o.status(inbox, "408", "Request Timeout", credit)
					credit = 0
				}
			}
			d.drained(t)
			if handled.Load() != total {
				t.Errorf("%d handler calls for %d messages", handled.Load(), total)
			}
			if errs := d.list(); len(errs) > 0 {
				t.Errorf("reported: %v", errs)
			}
		})
	}
}

func TestDurableAsksForWhatAPullLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		release := make(chan struct{})
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { <-release; return done })
		d.Start()
		first := o.pulled()
		if first.Batch != window || first.Expires != 30*time.Second || first.Heartbeat != 5*time.Second {
			t.Errorf("it asked for %+v", first)
		}
		for seq := range uint64(100) {
			o.send(first.inbox, seq+1, 1)
		}
		o.status(first.inbox, "408", "Request Timeout", window-100)
		if second := o.pulled(); second.Batch != window-100 {
			t.Errorf("it asked for %d more, want %d", second.Batch, window-100)
		}
		synctest.Wait()
		if more, _ := o.all(); len(more) > 0 {
			t.Errorf("it asked for %+v while its window is full", more)
		}
		close(release)
		d.drained(t)
	})
}

// What the server says about a pull, and what follows.
func TestDurableActsOnAStatus(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code, description string
		pending           int           // -1: not said
		wait              time.Duration // until it asks again
		report            bool
	}{
		{code: "408", description: "Request Timeout", pending: window},
		{code: "408", description: "Interest Expired", pending: window},
		{code: "409", description: "Server Shutdown", pending: window},
		{code: "409", description: "Batch Completed", pending: window},
		{code: "409", description: "Message Size Exceeds MaxBytes", pending: window},
		{code: "423", description: "Nats-Wrong-Pin-Id", pending: window},
		{code: "404", description: "No Messages", pending: -1, wait: 250 * time.Millisecond, report: true},
		{code: "409", description: "Leadership Change", pending: -1, wait: 250 * time.Millisecond, report: true},
		{code: "409", description: "Exceeded MaxWaiting", pending: -1, wait: 250 * time.Millisecond, report: true},
		{code: "409", description: "Consumer is push based", pending: -1, wait: 250 * time.Millisecond, report: true},
		{code: "400", description: "Bad Request", pending: -1, wait: 250 * time.Millisecond, report: true},
		{code: "503", pending: -1, wait: 250 * time.Millisecond, report: true},
	} {
		t.Run(c.code+" "+c.description, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newFakeServer(t)
				d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return done })
				d.Start()
				r := o.pulled()
				for range 3 {
					began := time.Now()
					o.status(r.inbox, c.code, c.description, c.pending)
					r = o.pulled()
					if waited := r.at.Sub(began); waited != c.wait {
						t.Errorf("it asked again after %v, want %v", waited, c.wait)
					}
					if r.Batch != window {
						t.Errorf("it asked for %d, want %d", r.Batch, window)
					}
				}
				errs := d.list()
				if c.report && len(errs) != 1 || !c.report && len(errs) != 0 {
					t.Errorf("three times the same made these reports: %q", errs)
				}
				o.send(r.inbox, 1, 1)
				if got := o.settled(); got.seq != 1 || got.body != "+ACK" {
					t.Errorf("afterwards a message is settled with %+v", got)
				}
				o.status(r.inbox, c.code, c.description, c.pending)
				synctest.Wait()
				time.Sleep(time.Second)
				if c.report && len(d.list()) != 2 {
					t.Errorf("after it had worked again, the reports are %q", d.list())
				}
				d.drained(t)
			})
		})
	}
}

func TestDurableAsksAgainWhenTheServerIsSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return done })
		d.Start()
		r := o.pulled()
		for range 12 { // a minute with a heartbeat every 5 s
			time.Sleep(5 * time.Second)
			o.status(r.inbox, "100", "Idle Heartbeat", 0)
		}
		synctest.Wait()
		if more, _ := o.all(); len(more) > 0 || len(d.list()) > 0 {
			t.Errorf("with heartbeats it asked for %+v and reported %v", more, d.list())
		}
		began := time.Now()
		r = o.pulled()
		if waited := r.at.Sub(began); waited < 10*time.Second || waited > 20*time.Second {
			t.Errorf("it asked again after %v of silence, want 10 to 20 s", waited)
		}
		synctest.Wait()
		if r.Batch != window || len(d.list()) != 1 {
			t.Errorf("it asked for %d and reported %v", r.Batch, d.list())
		}
		d.drained(t)
	})
}

func TestDurableAsksAfreshAfterAReconnect(t *testing.T) {
	t.Parallel()
	o := newFakeServer(t)
	d, err := intake.OpenDurable(o.link, intake.DurableConfig{
		Source: intake.Source{Next: nextSubject}, Concurrency: 1, Window: window, AckWait: time.Minute, Timeout: time.Second,
		Run:      func(wire.Delivery) settle.Outcome { return done },
		Settling: func(wire.Delivery, string) func(error) { return func(error) {} },
		Report:   func(err error) { t.Errorf("stalled: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Start()
	seq, r := uint64(0), o.pulled()
	for range 10 {
		if r.Batch < 2 || r.Batch > window { // one message a round trip makes it smaller
			t.Errorf("it asked for %d, want 2 to %d", r.Batch, window)
		}
		seq++
		o.send(r.inbox, seq, 1)
		if x := o.settled(); x.seq != seq || x.body != "+ACK" {
			t.Errorf("settled %+v", x)
		}
		if err := o.link.Conn().ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		for old := r.conn; r.conn == old; { // it may have asked more than once of the old one
			r = o.pulled()
		}
	}
	if err := d.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}
