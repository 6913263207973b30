package outlet_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/testserver"
)

// movedStream answers for the stream S: messages get ackText, questions get what state returns.
func movedStream(t *testing.T, s *testserver.Server, state func() string) (stored, asked *atomic.Int64) {
	t.Helper()
	stored, asked = new(atomic.Int64), new(atomic.Int64)
	stream(t, s, func(int, *nats.Msg) string { stored.Add(1); return ackText })
	l := s.Link(t)
	if _, err := l.Conn().Subscribe("$JS.API.STREAM.INFO.S", func(m *nats.Msg) { asked.Add(1); _ = m.Respond([]byte(state())) }); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	return stored, asked
}

// movedMessage is a message for S.
func movedMessage(id string) outlet.Message {
	m := message(id)
	m.Stream = "S"
	return *m
}

// knownID returns IDs with one message of S, which is stored now and has the sequence 3.
func knownID(id string) *dedup.IDs {
	c := dedup.NewCollector(10)
	c.Stream("S", "inc", time.Minute).Add([]byte("NATS/1.0\r\nNats-Msg-Id: "+id+"\r\n\r\n"), 3, time.Now().UnixNano())
	ids, _ := c.Finish()
	return ids
}

const sameStream = `{"config":{"metadata":{"_omnibus.incarnation":"inc"}}}`

// The outlet answers for a message whose ID is known, as long as the window lasts and the stream
// is the same. Nothing is sent then. Other messages are sent, and the stream is not asked.
func TestAnswerFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		stored, asked := movedStream(t, s, func() string { return sameStream })
		o := newSender(t, s)
		o.AnswerFor(knownID("known"))
		m := movedMessage("known")
		if ack, err := o.Store(t.Context(), &m); err != nil || ack != (outlet.Ack{Stream: "S", Sequence: 3, Duplicate: true}) {
			t.Errorf("Store = %+v, %v", ack, err)
		}
		w := outlet.NewWindow(o.Outlet, 1)
		defer w.Close()
		for range 3 { // it gives its slot back
			f := &outlet.Future{Message: movedMessage("known"), Deadline: time.Now().Add(time.Minute)}
			if err := w.Add(t.Context(), f); err != nil {
				t.Fatal(err)
			}
			if ack, _, err := f.Wait(t.Context()); err != nil || !ack.Duplicate || ack.Sequence != 3 || w.Pending() != 0 {
				t.Errorf("the window: %+v, %v; %d pending", ack, err, w.Pending())
			}
		}
		if n := o.link.Inside(); n != 0 {
			t.Errorf("%d messages are inside the gate", n)
		}
		if ack, found, err := o.Find(t.Context(), "S", "stored", "known"); err != nil || !found || ack.Sequence != 3 {
			t.Errorf("Find = %+v, %v, %v", ack, found, err)
		}
		if stored.Load() != 0 || asked.Load() != 5 {
			t.Errorf("%d were sent, the stream was asked %d times", stored.Load(), asked.Load())
		}
		for _, id := range []string{"new", ""} {
			m := movedMessage(id)
			if ack, err := o.Store(t.Context(), &m); err != nil || ack.Duplicate {
				t.Errorf("%q: %+v, %v", id, ack, err)
			}
		}
		time.Sleep(time.Minute)
		m = movedMessage("known")
		if ack, err := o.Store(t.Context(), &m); err != nil || ack.Duplicate {
			t.Errorf("after the window: %+v, %v", ack, err)
		}
		if stored.Load() != 3 || asked.Load() != 5 {
			t.Errorf("%d were sent, the stream was asked %d times", stored.Load(), asked.Load())
		}
	})
}

// A stream that is not the one that moved gets the message. If it cannot be asked, the message is
// not sent, and the error says why.
func TestAnswerForAnotherStream(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		state string
		sent  int64
	}{
		"another incarnation": {`{"config":{"metadata":{"_omnibus.incarnation":"other"}}}`, 1},
		"created again":       {`{"created":"2026-01-01T00:00:00Z"}`, 1},
		"missing":             {`{"error":{"code":404,"err_code":10059,"description":"stream not found"}}`, 1},
		"refused":             {`{"error":{"code":500,"err_code":10002,"description":"no"}}`, 0},
		"nonsense":            {`nonsense`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			stored, _ := movedStream(t, s, func() string { return c.state })
			o := newSender(t, s)
			o.AnswerFor(knownID("known"))
			m := movedMessage("known")
			ack, err := o.Store(t.Context(), &m)
			w := outlet.NewWindow(o.Outlet, 1)
			defer w.Close()
			f := &outlet.Future{Message: movedMessage("known"), Deadline: time.Now().Add(time.Minute)}
			added := w.Add(t.Context(), f)
			if c.sent == 0 {
				if err == nil || added == nil || w.Pending() != 0 || o.link.Inside() != 0 {
					t.Errorf("Store = %v, Add = %v, %d pending, %d inside", err, added, w.Pending(), o.link.Inside())
				}
			} else if _, _, late := f.Wait(t.Context()); err != nil || ack.Duplicate || added != nil || late != nil {
				t.Errorf("Store = %+v, %v, Add = %v, %v", ack, err, added, late)
			}
			if got := stored.Load(); got != 2*c.sent {
				t.Errorf("%d messages were sent", got)
			}
			if refused, ok := errors.AsType[*jserr.Refusal](err); name == "refused" && (!ok || refused.Number != 10002) {
				t.Errorf("got %v", err)
			}
		})
	}
}
