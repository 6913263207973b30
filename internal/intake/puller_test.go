package intake_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

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
