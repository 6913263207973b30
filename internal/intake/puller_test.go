package intake_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

func TestDurableReportsForeignMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
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
		o := newFakeServer(t)
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
		o := newFakeServer(t)
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
