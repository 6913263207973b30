package intake_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// overdue plays a consumer all of whose messages are out for so long that it gives them
// out again, in order: the first pull got all but the last one, which went elsewhere.
type overdue struct {
	t         *testing.T
	delivered int // number of the last delivery
	again     int // the next message that is given out again
	pulls     int
}

// overdueMessages is how many there are, numbered from 1.
const overdueMessages = 250

func (v *overdue) answer(c *fakeConn, e event) {
	if e.subject != nextSubject {
		c.deliver(e.reply, "", fmt.Sprintf(`{"type":"io.nats.jetstream.api.v1.consumer_info_response","delivered":{"consumer_seq":%d},"num_ack_pending":%d}`,
			v.delivered, overdueMessages))
		return
	}
	var r request
	if err := json.Unmarshal([]byte(e.body), &r); err != nil {
		v.t.Error(err)
	}
	v.pull(c, e.reply, r.Batch)
}

func (v *overdue) pull(c *fakeConn, inbox string, batch int) {
	v.pulls++
	if v.pulls == 1 {
		for n := range overdueMessages - 1 {
			v.deliver(c, inbox, n+1, 1)
		}
		v.delivered++
		v.again = 1
		c.deliverHeader(inbox, "", "NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1\r\nNats-Pending-Bytes: 0")
		return
	}
	for ; batch > 0 && v.again <= overdueMessages; batch-- {
		v.deliver(c, inbox, v.again, 2)
		v.again++
	}
}

func (v *overdue) deliver(c *fakeConn, inbox string, seq, times int) {
	v.delivered++
	c.deliver(inbox, fmt.Sprintf("$JS.ACK.S.C.%d.%d.%d.%d.0", times, seq, v.delivered, 1), "message")
}

// A message that is missing is not waited for one message a second, where the server
// gives out everything else before it.
func TestDurableAsksForAllThatMayComeBeforeAMissingMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		v := &overdue{t: t}
		o.answer = v.answer
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { return done }, func(c *intake.DurableConfig) {
			c.Source = intake.Source{Next: nextSubject, Info: "info.S.C", MaxHeld: 1000}
			c.Window = overdueMessages
			c.Key = func(*wire.Delivery) (string, error) { return "k", nil }
		})
		begun := time.Now()
		d.Start()
		o.settledInOrder(t, 200)
		took := time.Since(begun)
		o.link.Close()
		_ = d.Drain(t.Context())
		synctest.Wait()
		if took > time.Second || v.pulls > 150 {
			t.Errorf("it took %v and %d pulls until it went on", took, v.pulls)
		}
	})
}

// doubts is a Recovery that asks twice about each message whether it may run: at the first time the
// settlement of an earlier one is still on its way.
type doubts struct{ handbacks }

func (*doubts) MayRun(d wire.Delivery) (bool, error) { return d.Stored.Rechecks == 0, nil }

// A message that waits for the settlement of an earlier one of its key runs soon after it.
func TestMessageRunsSoonAfterASettlementOfItsKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newFakeServer(t)
		pulled := make(chan string, 1)
		o.answer = func(c *fakeConn, e event) {
			if e.subject == nextSubject {
				select {
				case pulled <- e.reply:
				default:
				}
				return
			}
			c.deliver(e.reply, "", `{"type":"io.nats.jetstream.api.v1.consumer_info_response"}`)
		}
		ran := make(chan time.Time, 1)
		d := open(t, o, 1, func(wire.Delivery) settle.Outcome { ran <- time.Now(); return done }, func(c *intake.DurableConfig) {
			c.Source = intake.Source{Next: nextSubject, Info: "info.S.C", MaxHeld: 10}
			c.Key = func(*wire.Delivery) (string, error) { return "k", nil }
			c.Recovery = new(doubts)
		})
		d.Start()
		inbox := <-pulled
		synctest.Wait() // the barrier is open
		sent := time.Now()
		o.send(inbox, 1, 1)
		if took := (<-ran).Sub(sent); took > 10*time.Millisecond {
			t.Errorf("it waited for %v", took)
		}
		o.link.Close()
		_ = d.Drain(t.Context())
	})
}

// settledInOrder waits until the messages up to last are acknowledged, the first time in
// order.
func (o *fakeServer) settledInOrder(t *testing.T, last uint64) {
	t.Helper()
	late := time.After(time.Minute)
	for seq := uint64(0); seq < last; {
		var e event
		select {
		case e = <-o.events:
		case <-late:
			t.Errorf("nothing was settled after %d", seq)
			return
		}
		if !strings.HasPrefix(e.subject, "$JS.ACK.") {
			continue
		}
		if _, s := o.parse(e); s.body == "+ACK" {
			if s.seq > seq+1 {
				t.Errorf("message %d was settled after %d", s.seq, seq)
			}
			seq = max(seq, s.seq)
		}
	}
}
