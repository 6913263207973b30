package intake_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestDurableKeepsAliveWhatItHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const ackWait = time.Second
		o := newFakeServer(t)
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
