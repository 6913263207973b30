package intake_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// window is what a Durable of small concurrency may have asked for and hold.
const window = 256

var errFailed = errors.New("failed")

var (
	done   = settle.Outcome{}
	failed = settle.Outcome{Err: errFailed}
)

func after(d time.Duration) settle.Outcome {
	return settle.Outcome{Err: errFailed, Asked: true, After: d}
}

// reports are what a Durable reported.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *reports) list() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.errs)
}

// durable is a Durable under test and what it reports.
type durable struct {
	*intake.Durable
	*reports
}

// open makes a Durable on a connection of its own that run handles the messages
// of. The caller starts it.
func open(t *testing.T, o *origin, concurrency int, run func(wire.Delivery) settle.Outcome, changes ...func(*intake.DurableConfig)) *durable {
	t.Helper()
	r := new(reports)
	c := intake.DurableConfig{
		Source:      intake.Source{Next: nextSubject},
		Concurrency: concurrency,
		Window:      window,
		AckWait:     30 * time.Second,
		Policy:      settle.Policy{MinBackoff: 100 * time.Millisecond, MaxBackoff: time.Minute},
		Timeout:     5 * time.Second,
		Run:         run,
		Settling:    func(wire.Delivery, string) func(error) { return func(error) {} },
		Report:      r.add,
	}
	for _, change := range changes {
		change(&c)
	}
	d, err := intake.OpenDurable(o.link, c)
	if err != nil {
		t.Fatal(err)
	}
	return &durable{d, r}
}

// drained ends d, which must succeed.
func (d *durable) drained(t *testing.T) {
	t.Helper()
	if err := d.Drain(t.Context()); err != nil {
		t.Errorf("Drain: %v", err)
	}
	if !closed(d.Done()) {
		t.Error("Done is open after Drain")
	}
}

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
			o := newOrigin(t)
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
		o := newOrigin(t)
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
func TestDurableHeedsTheServersWord(t *testing.T) {
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
				o := newOrigin(t)
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
		o := newOrigin(t)
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return done })
		d.Start()
		r := o.pulled()
		for range 12 { // a minute with a sign of life every 5 s
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

func TestDurableEndsWhenItsConsumerIsDeleted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
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

func TestDurableReportsForeignMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return done })
		d.Start()
		r := o.pulled()
		o.current().deliver(r.inbox, "", "who am I?")
		synctest.Wait()
		if errs := d.list(); len(errs) != 1 {
			t.Errorf("reported %v", errs)
		}
		o.send(r.inbox, 1, 1)
		if got := o.settled(); got.body != "+ACK" {
			t.Errorf("afterwards a message is settled with %+v", got)
		}
		d.drained(t)
	})
}

// A stored message without a payload may have any header, even one that reads
// like the server's own word.
func TestDurableTakesAMessageForAMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
		got := make(chan wire.Delivery, 10)
		d := open(t, o, 1, func(del wire.Delivery) settle.Outcome { got <- del; return done })
		d.Start()
		r := o.pulled()
		for i, header := range []string{
			"NATS/1.0\r\nStatus: shipped", "NATS/1.0\r\nStatus: 100", "NATS/1.0\r\nX: y",
			"NATS/1.0\r\nStatus: 409\r\nDescription: Consumer Deleted",
		} {
			o.current().deliverHeader(r.inbox, ackSubject(uint64(i+1), 1), header)
		}
		synctest.Wait()
		if len(got) != 4 {
			t.Errorf("%d of 4 messages were handled", len(got))
		}
		if d.Err() != nil || len(d.list()) != 0 {
			t.Errorf("Err is %v, reported %v", d.Err(), d.list())
		}
		d.drained(t)
	})
}

// The server sends again what it has not heard of for too long. Here it is held
// already: queued, running or waiting for its next attempt.
func TestDurableRunsAHeldMessageOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
		var mu sync.Mutex
		calls := make(map[uint64]int)
		d := open(t, o, 2, func(del wire.Delivery) settle.Outcome {
			mu.Lock()
			calls[del.Stored.Sequence]++
			first := calls[del.Stored.Sequence] == 1
			mu.Unlock()
			switch {
			case del.Stored.Sequence == 3 && first:
				return after(time.Minute) // it waits
			case del.Stored.Sequence < 3:
				time.Sleep(time.Minute) // these run, so that 4 waits in the queue
			}
			return done
		})
		d.Start()
		r := o.pulled()
		o.send(r.inbox, 3, 1)
		synctest.Wait()
		for _, seq := range []uint64{1, 2, 4} {
			o.send(r.inbox, seq, 1)
		}
		synctest.Wait()
		for seq := range uint64(4) {
			o.send(r.inbox, seq+1, 2)
		}
		var settled []settlement
		for range 4 {
			settled = append(settled, o.settled())
		}
		for _, x := range settled {
			if x.body != "+ACK" || x.delivered != 2 {
				t.Errorf("message %d was settled with %s on delivery %d, want +ACK on the newest", x.seq, x.body, x.delivered)
			}
		}
		d.drained(t)
		for seq, n := range calls {
			if want := map[uint64]int{1: 1, 2: 1, 3: 2, 4: 1}[seq]; n != want {
				t.Errorf("the handler was called %d times for message %d, want %d", n, seq, want)
			}
		}
	})
}

func TestDurableKeepsAliveWhatItHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const ackWait = time.Second
		o := newOrigin(t)
		calls := make(map[uint64]int)
		d, err := intake.OpenDurable(o.link, intake.DurableConfig{
			Source: intake.Source{Next: nextSubject}, Concurrency: 1, Window: window, AckWait: ackWait, Timeout: 5 * time.Second,
			Policy: settle.Policy{MinBackoff: time.Minute, MaxBackoff: time.Minute},
			Run: func(del wire.Delivery) settle.Outcome {
				calls[del.Stored.Sequence]++
				if del.Stored.Sequence == 1 && calls[1] == 1 {
					return after(10 * time.Minute) // it waits
				}
				if del.Stored.Sequence == 2 {
					time.Sleep(10 * time.Minute) // it runs, and those behind it wait in the queue
				}
				return done
			},
			Settling: func(wire.Delivery, string) func(error) { return func(error) {} },
			Report:   func(err error) { t.Errorf("stalled: %v", err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		d.Start()
		r := o.pulled()
		heard := make(map[uint64]time.Time)
		for seq := range uint64(20) {
			time.Sleep(7 * time.Millisecond) // so that not all come at the same moment
			o.send(r.inbox, seq+1, 1)
			heard[seq+1] = time.Now()
		}
		beat := time.NewTicker(5 * time.Second)
		defer beat.Stop()
		longest := time.Duration(0)
		for len(heard) > 0 {
			select {
			case e := <-o.events:
				if _, x := o.parse(e); x != nil {
					longest = max(longest, time.Since(heard[x.seq]))
					heard[x.seq] = time.Now()
					if x.body == "+ACK" {
						delete(heard, x.seq)
					}
				}
			case <-time.After(time.Minute):
				t.Fatalf("nothing is heard of %d messages", len(heard))
			case <-beat.C:
				o.status(r.inbox, "100", "Idle Heartbeat", 0)
			}
		}
		if longest > ackWait*3/4 {
			t.Errorf("the server heard nothing of a message for %v, with an AckWait of %v", longest, ackWait)
		}
		if err := d.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestDurableRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
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
		o := newOrigin(t)
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

func TestDurableDrainGivesBackWhatWasNotBegun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
		var calls []uint64
		d := open(t, o, 1, func(del wire.Delivery) settle.Outcome {
			calls = append(calls, del.Stored.Sequence)
			if del.Stored.Sequence == 1 {
				return failed
			}
			time.Sleep(10 * time.Second)
			if del.Stored.Sequence == 3 {
				return failed
			}
			return done
		})
		d.Start()
		r := o.pulled()
		for seq := range uint64(50) {
			o.send(r.inbox, seq+1, 1)
		}
		// 1 has failed and waits, 2 was handled, 3 runs and will fail, the rest waits.
		synctest.Wait()
		time.Sleep(15 * time.Second)
		began := time.Now()
		d.drained(t)
		if waited := time.Since(began); waited != 5*time.Second {
			t.Errorf("Drain took %v, want the 5 s that the handler needs", waited)
		}
		_, all := o.all()
		got := make(map[uint64]string)
		for _, x := range all {
			if x.body == "+WPI" {
				continue
			}
			if before := got[x.seq]; before != "" && before != x.body {
				t.Errorf("message %d was settled with %s and %s", x.seq, before, x.body)
			}
			got[x.seq] = x.body
		}
		for seq := range uint64(50) {
			want := "-NAK 0s"
			if seq+1 == 2 {
				want = "+ACK"
			}
			if got[seq+1] != want {
				t.Errorf("message %d was settled with %q, want %s", seq+1, got[seq+1], want)
			}
		}
		if slices.Max(calls) > 3 && !slices.Contains(calls, 1) {
			t.Errorf("called for %v", calls)
		}
	})
}

// Drain waits for the server's answer about the last settlement, also where that was of
// a dead letter.
func TestDurableDrainConfirms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body    string
		outcome settle.Outcome
	}{{"+ACK", done}, {"+TERM", settle.Outcome{Err: errFailed, Permanent: true}}} {
		t.Run(c.body, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t)
			d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return c.outcome }, func(c *intake.DurableConfig) {
				c.WriteDeadLetter = func(wire.Delivery) error { return nil }
			})
			d.Start()
			o.send(o.pulled().inbox, 7, 1)
			if got := o.settled(); got.seq != 7 || got.body != c.body {
				t.Errorf("it was settled with %+v", got)
			}
			d.drained(t)
			if _, more := o.all(); len(more) != 1 || more[0].seq != 7 {
				t.Errorf("then came %+v", more)
			}
		})
	}
}

// Whatever Drain meets (queued, running, failing, ripe for a retry), each message
// ends settled, and no handler begins once it has returned.
func TestDurableDrainAtAnyMoment(t *testing.T) {
	t.Parallel()
	for round := range 60 {
		seed := uint64(round)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 6))
			o := newOrigin(t)
			var over atomic.Bool
			var late atomic.Int64
			var n atomic.Uint64
			outcomes := []settle.Outcome{done, failed, after(0), after(time.Microsecond), after(time.Hour)}
			d := open(t, o, 1+rnd.IntN(8), func(wire.Delivery) settle.Outcome {
				if over.Load() {
					late.Add(1)
				}
				return outcomes[n.Add(7)%uint64(len(outcomes))]
			})
			d.Start()
			r := o.pulled()
			sent := uint64(rnd.IntN(window))
			for seq := range sent {
				o.send(r.inbox, seq+1, 1)
			}
			o.flush()
			for range rnd.IntN(5000) {
				d.InFlight() // some random time
			}
			d.drained(t)
			over.Store(true)
			if err := o.link.Flush(t.Context(), time.Second); err != nil {
				t.Fatal(err)
			}
			seen := make(map[uint64]bool)
			err := waitFor(t, func() bool {
				_, all := o.all()
				for _, x := range all {
					seen[x.seq] = seen[x.seq] || x.body != "+WPI"
				}
				return len(seen) == int(sent)
			})
			if err != nil {
				t.Errorf("seed %d: %d of %d messages were settled", seed, len(seen), sent)
			}
			if late.Load() > 0 || d.InFlight() > 0 {
				t.Errorf("seed %d: %d handlers began after Drain, %d run", seed, late.Load(), d.InFlight())
			}
		})
	}
}

func TestDurableDrainGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		limit time.Duration
	}{{"after a while", 10 * time.Second}, {"at once", 0}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin(t)
				var calls atomic.Int64
				release := make(chan struct{})
				d := open(t, o, 1, func(wire.Delivery) settle.Outcome {
					calls.Add(1)
					<-release
					return failed
				})
				d.Start()
				r := o.pulled()
				for seq := range uint64(50) {
					o.send(r.inbox, seq+1, 1)
				}
				if c.limit > 0 {
					synctest.Wait()
				} else {
					o.flush() // some may still be on the way
				}
				ctx, cancel := context.WithTimeout(t.Context(), c.limit)
				defer cancel()
				began := time.Now()
				if err := d.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if waited := time.Since(began); waited != c.limit {
					t.Errorf("Drain took %v with %v left", waited, c.limit)
				}
				if !closed(d.Done()) {
					t.Error("Done is open after Drain")
				}
				close(release)
				synctest.Wait()
				if calls.Load() > 1 {
					t.Errorf("%d handlers began after Drain", calls.Load()-1)
				}
				if msgs, _ := d.Pending(); msgs != 0 {
					t.Errorf("%d messages wait after the end", msgs)
				}
			})
		})
	}
}

// handbacks is a Recovery of what was returned, and of nothing else.
type handbacks struct {
	returned []uint64
	then     func() // is called each time, if it is not nil
}

func (h *handbacks) Restore(wire.Delivery)                    {}
func (h *handbacks) MayRun(wire.Delivery) (bool, error)       { return false, nil }
func (h *handbacks) MarkStarted(wire.Delivery) (error, error) { return nil, nil }
func (h *handbacks) MarkEnded(wire.Delivery)                  {}

func (h *handbacks) RecordHandback(_ context.Context, ds []wire.Delivery) {
	for _, del := range ds {
		h.returned = append(h.returned, del.Stored.Sequence)
	}
	if h.then != nil {
		h.then()
	}
}

// What comes to the queue when that has stopped is recorded like what was in it.
func TestDurableDrainRecordsWhatComesLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
		var records handbacks
		release := make(chan struct{})
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { <-release; return done },
			func(c *intake.DurableConfig) { c.Recovery = &records })
		d.Start()
		r := o.pulled()
		records.then = func() {
			if len(records.returned) == 1 {
				o.send(r.inbox, 3, 1)
				synctest.Wait()
			}
		}
		o.send(r.inbox, 1, 1)
		o.send(r.inbox, 2, 1)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Drain(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if !slices.Equal(records.returned, []uint64{2, 3}) {
			t.Errorf("recorded were %v", records.returned)
		}
		for _, seq := range records.returned {
			if got := o.settled(); got.seq != seq || got.body != "-NAK 0s" {
				t.Errorf("message %d was settled with %+v", seq, got)
			}
		}
		close(release)
	})
}

func TestDurableDrainBeforeStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return done })
		d.drained(t)
		d.Start() // too late, as when the bus closes during Consume
		time.Sleep(time.Hour)
		if more, _ := o.all(); len(more) > 0 {
			t.Errorf("it asked for %+v after its end", more)
		}
	})
}

func TestDurableDrainFromItsHandler(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin(t)
				returned := make(chan error, 1)
				var d *durable
				d = open(t, o, concurrency, func(del wire.Delivery) settle.Outcome {
					if del.Stored.Sequence == 1 {
						time.Sleep(time.Second)
						returned <- d.Drain(dispatch.FromCaller(t.Context()))
						return done
					}
					time.Sleep(2 * time.Second)
					return done
				})
				d.Start()
				r := o.pulled()
				for seq := range uint64(20) {
					o.send(r.inbox, seq+1, 1)
				}
				if err := <-returned; err != nil {
					t.Errorf("got %v", err)
				}
				settled := make(map[uint64]string)
				for len(settled) < 20 {
					x := o.settled()
					settled[x.seq] = x.body
				}
				for seq, body := range settled {
					want := "-NAK 0s"
					if seq <= uint64(concurrency) {
						want = "+ACK"
					}
					if body != want {
						t.Errorf("message %d was settled with %s, want %s", seq, body, want)
					}
				}
			})
		})
	}
}

func TestDurableDrainOnAClosedConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(t)
		var begun, running atomic.Int64
		d, err := intake.OpenDurable(o.link, intake.DurableConfig{
			Source: intake.Source{Next: nextSubject}, Concurrency: 1, Window: window, AckWait: time.Minute, Timeout: time.Second,
			Run: func(wire.Delivery) settle.Outcome {
				begun.Add(1)
				running.Add(1)
				time.Sleep(time.Minute)
				running.Add(-1)
				return done
			},
			Settling: func(wire.Delivery, string) func(error) { return func(error) {} },
			Report:   func(error) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		d.Start()
		r := o.pulled()
		for seq := range uint64(10) {
			o.send(r.inbox, seq+1, 1)
		}
		synctest.Wait()
		o.link.Close()
		_ = d.Drain(t.Context()) // it may say that the acknowledgement got lost
		if running.Load() != 0 {
			t.Error("Drain returned while a handler ran")
		}
		time.Sleep(time.Hour)
		if begun.Load() != 1 {
			t.Errorf("%d handlers began after the connection was closed", begun.Load()-1)
		}
	})
}

func TestDurableAsksAfreshAfterAReconnect(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
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

func TestOpenDurableOnAClosedConnection(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.link.Close()
	_, err := intake.OpenDurable(o.link, intake.DurableConfig{Source: intake.Source{Next: nextSubject}, Concurrency: 1, Report: func(error) {}})
	if !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got %v", err)
	}
}
