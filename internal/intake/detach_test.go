package intake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/testserver"
)

// detachable is a member on a server, and what the server says of its consumer.
type detachable struct {
	*member
	*intake.Durable
	info func() *jetstream.ConsumerInfo
}

// eachDetachable runs f with a Durable of each concurrency.
func eachDetachable(t *testing.T, f func(t *testing.T, d *detachable)) {
	t.Helper()
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t, testserver.WithJetStream)
			m := newDurableMember(t, s, concurrency)
			js, err := jetstream.New(s.Conn(t))
			if err != nil {
				t.Fatal(err)
			}
			f(t, &detachable{m, m.quiescable.(*intake.Durable), func() *jetstream.ConsumerInfo {
				c, err := js.Consumer(t.Context(), "S", "C")
				if err != nil {
					t.Fatal(err)
				}
				return c.CachedInfo()
			}})
		})
	}
}

// After Detach everything that the server counts as sent is here, and it sends nothing more. After
// Resume everything is handled once.
func TestDetach(t *testing.T) {
	t.Parallel()
	eachDetachable(t, func(t *testing.T, d *detachable) {
		total := 0
		for range 5 {
			release := d.block()
			d.publish(50)
			d.await("begun", func() int64 { return min(d.begun.Load(), int64(total+1)) }, int64(total+1))
			quick, _ := ended(t)
			_ = d.Quiesce(quick)
			for range 2 { // twice
				if err := intake.Detach(t.Context(), d.Durable); err != nil {
					t.Fatalf("Detach: %v", err)
				}
			}
			for end := time.Now().Add(2 * time.Second); d.info().NumAckPending != d.Held() && time.Now().Before(end); {
				time.Sleep(time.Millisecond) // acknowledgements are processed a little later
			}
			if pending := d.info().NumAckPending; pending != d.Held() {
				t.Errorf("the server counts %d messages as sent, and %d are here", pending, d.Held())
			}
			before := d.info().Delivered.Consumer
			d.publish(20)
			time.Sleep(5 * time.Millisecond)
			if info := d.info(); info.Delivered.Consumer != before || info.NumWaiting != 0 {
				t.Errorf("the server sent %d messages after Detach, and %d pulls wait", info.Delivered.Consumer-before, info.NumWaiting)
			}
			release()
			d.Resume()
			d.Resume()
			total += 70
			d.await("handled", d.handled.Load, int64(total))
		}
		if err := d.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
		if n := d.handled.Load(); n != int64(total) {
			t.Errorf("%d handler calls for %d messages", n, total)
		}
	})
}

// What a handler that runs meanwhile returns is settled.
func TestDetachWhileAHandlerRuns(t *testing.T) {
	t.Parallel()
	eachDetachable(t, func(t *testing.T, d *detachable) {
		release := d.block()
		d.publish(1)
		d.await("begun", d.begun.Load, 1)
		quick, _ := ended(t)
		_ = d.Quiesce(quick)
		if err := intake.Detach(t.Context(), d.Durable); err != nil {
			t.Fatal(err)
		}
		release()
		d.await("acknowledged", func() int64 { return int64(d.info().AckFloor.Stream) }, 1)
		d.Resume()
		if err := d.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
	})
}

// When its context ends first Detach says why, and Resume goes on all the same. So does a Drain.
func TestDetachInVain(t *testing.T) {
	t.Parallel()
	eachDetachable(t, func(t *testing.T, d *detachable) {
		if err := d.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, reason := ended(t)
		if err := intake.Detach(ctx, d.Durable); !errors.Is(err, reason) && !errors.Is(err, context.Canceled) {
			t.Errorf("Detach = %v", err)
		}
		d.publish(20)
		d.Resume()
		d.await("handled", d.handled.Load, 20)
		if err := d.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := intake.Detach(t.Context(), d.Durable); err != nil {
			t.Fatal(err)
		}
		d.publish(1)
		if err := d.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
		d.Resume() // after its end
		if n := d.begun.Load(); n != 20 {
			t.Errorf("%d handlers began after Detach", n-20)
		}
		if err := intake.Detach(t.Context(), d.Durable); err != nil {
			t.Logf("Detach after the end: %v", err)
		}
	})
}

// Several Durables of one process have messages of one consumer. Detach takes what they have
// together for what is here, and fetches nothing for them in vain.
func TestDetachSeveralOfOneConsumer(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 8, 16, 64} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t, testserver.WithJetStream)
			m := newDurableMember(t, s, 1)
			all := []*intake.Durable{m.quiescable.(*intake.Durable)}
			l := s.Link(t)
			for range n - 1 {
				d := openReal(t, l, 1, m)
				d.Start()
				all = append(all, d)
			}
			release := m.block()
			const messages = 4 * window // more than one of them takes
			m.publish(messages)
			several := int64(min(n, 3))
			m.await("begun", func() int64 { return min(m.begun.Load(), several) }, several)
			quick, _ := ended(t)
			for _, d := range all {
				_ = d.Quiesce(quick)
			}
			fetches, err := s.Conn(t).SubscribeSync("$JS.API.CONSUMER.MSG.NEXT.S.C")
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(fetches.SetPendingLimits(-1, -1), l.Flush(t.Context(), time.Minute)); err != nil {
				t.Fatal(err)
			}
			if err := intake.Detach(t.Context(), all...); err != nil {
				t.Fatal(err)
			}
			js, err := jetstream.New(s.Conn(t))
			if err != nil {
				t.Fatal(err)
			}
			c, err := js.Consumer(t.Context(), "S", "C")
			if err != nil {
				t.Fatal(err)
			}
			held := 0
			for _, d := range all {
				held += d.Held()
			}
			if c.CachedInfo().NumAckPending != held {
				t.Errorf("the server counts %d messages as sent, and %d are here", c.CachedInfo().NumAckPending, held)
			}
			if sent := shortRequests(t, fetches); sent >= 5 { // a few if the server was about to send
				t.Errorf("%d fetches", sent)
			}
			release()
			for _, d := range all {
				d.Resume()
			}
			m.await("handled", m.handled.Load, messages)
			for _, d := range all {
				if err := d.Drain(t.Context()); err != nil {
					t.Errorf("Drain: %v", err)
				}
			}
		})
	}
}

// shortRequests returns how many of the requests for messages that have come expire soon. The
// others are those of before Detach.
func shortRequests(t *testing.T, s *nats.Subscription) (n int) {
	t.Helper()
	come, _, err := s.Pending()
	for range come {
		var m *nats.Msg
		if m, err = s.NextMsgWithContext(t.Context()); err != nil {
			break
		}
		var r struct{ Expires time.Duration }
		if err = json.Unmarshal(m.Data, &r); err != nil {
			break
		}
		if r.Expires < time.Second {
			n++
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
