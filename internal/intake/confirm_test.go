package intake_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

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
			o := newFakeServer(t)
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

// What was settled at a consumer that is no more needs no confirmation, nor what was
// settled at one that was created again and has not sent that message. Each source is asked
// about its own.
func TestConfirmWhereTheConsumerIsGone(t *testing.T) {
	t.Parallel()
	const header, none = "NATS/1.0 503", ""
	for name, c := range map[string]struct {
		ack, info string // the answers: a header to the one, a body to the other
		confirmed bool
	}{
		"gone":          {header, `{"error":{"err_code":10014}}`, true},
		"created again": {none, `{"type":"io.nats.jetstream.api.v1.consumer_info_response","delivered":{"stream_seq":6}}`, true},
		"slow":          {none, `{"type":"io.nats.jetstream.api.v1.consumer_info_response","delivered":{"stream_seq":7}}`, false},
		"not asked":     {none, none, false},
		"no leader":     {header, none, false},
		"other word":    {none, `{"type":"other"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newFakeServer(t)
				inbox := make(chan string, 10)
				o.answer = func(conn *fakeConn, e event) {
					switch {
					case e.subject == "next.R.C":
						inbox <- e.reply
					case e.subject == "info.R.C" && c.info != none:
						conn.deliver(e.reply, "", c.info)
					case strings.HasPrefix(e.subject, "$JS.ACK.R.") && c.ack != none:
						conn.deliverHeader(e.reply, "", c.ack)
					}
				}
				d := openOwned(t, o, &ownerStub{halted: make(chan struct{})}, func(wire.Delivery) settle.Outcome { return done }, nil,
					intake.Source{Next: "next.R.C", Info: "info.R.C"})
				o.current().deliver(<-inbox, fmt.Sprintf("$JS.ACK.R.C.1.7.7.%d.0", time.Now().UnixNano()), "message")
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				defer cancel()
				if err := d.Confirm(ctx); (err == nil) != c.confirmed {
					t.Errorf("Confirm returns %v", err)
				}
				d.Abandon()
			})
		})
	}
}
