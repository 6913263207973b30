package intake_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

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

// A silence ends with the connection: Health must not report it when messages come again.
func TestDurableForgetsASilenceAfterAReconnect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return done })
		d.Start()
		o.pulled()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if d.Stalled() == nil {
			t.Error("a silent server is not reported")
		}
		d.Reconnected() // nats.go cannot reconnect in a bubble: it shares timers with other tests
		if err := d.Stalled(); err != nil {
			t.Errorf("after a reconnect: %v", err)
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
