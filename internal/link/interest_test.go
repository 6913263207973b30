package link_test

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/testserver"
)

// valve is a connection whose incoming side a test can hold up.
type valve struct {
	net.Conn
	mu   sync.Mutex
	held chan struct{} // closed: it flows
}

func (v *valve) Read(p []byte) (int, error) {
	n, err := v.Conn.Read(p)
	v.mu.Lock()
	held := v.held
	v.mu.Unlock()
	<-held
	return n, err
}

func (v *valve) hold() (release func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := make(chan struct{})
	v.held = held
	return sync.OnceFunc(func() { close(held) })
}

// through returns a dialer that puts a valve, which flows, into the connection.
func through(dial func() (net.Conn, error)) (*valve, func() (net.Conn, error)) {
	v := &valve{}
	v.hold()()
	return v, func() (net.Conn, error) {
		var err error
		v.Conn, err = dial()
		return v, err
	}
}

// interest is the number of subscriptions to subject that s knows.
func interest(t *testing.T, s *testserver.Server, subject string) int {
	t.Helper()
	z, err := s.NATS().Subsz(&server.SubszOptions{Subscriptions: true, Test: subject})
	if err != nil {
		t.Fatal(err)
	}
	return len(z.Subs)
}

// blocked subscribes with a handler that waits for release.
func blocked(t *testing.T, l *link.Link, subject, group string) (sub *nats.Subscription, got <-chan string, release func()) {
	t.Helper()
	ch, gate := make(chan string, 1000), make(chan struct{})
	sub, err := l.Conn().QueueSubscribe(subject, group, func(m *nats.Msg) {
		<-gate
		ch <- string(m.Data)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(t.Context(), testTimeout); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	return sub, ch, release
}

// publish sends from, from+1, … below to, until the server has passed them on.
func publish(t *testing.T, nc *nats.Conn, subject string, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := nc.Publish(subject, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, nc)
}

// expect takes the messages 0 to n-1 out of got, in order, and no more.
func expect(t *testing.T, got <-chan string, n int) {
	t.Helper()
	for i := range n {
		if v, want := next(t, got, "message "+fmt.Sprint(i)), fmt.Sprint(i); v != want {
			t.Fatalf("got %s, want %s", v, want)
		}
	}
	none(t, got, "a message too many")
}

// TestEndInterest guards the number that unsubscribes. The server must take it
// for "now", or messages would go on coming and the end of the subscription lose
// them; the client must not, or what has arrived and what is on its way would be
// lost. A server that can read a number of ten digits fails this test.
func TestEndInterest(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		name string
		dial func(*testserver.Server) func() (net.Conn, error)
	}{
		{"in process", func(s *testserver.Server) func() (net.Conn, error) { return s.InProcessConn }},
		{"over TCP", func(s *testserver.Server) func() (net.Conn, error) { return s.DialTCP }},
	} {
		for name, group := range map[string]string{"": "", ", in a group": "g"} {
			t.Run(way.name+name, func(t *testing.T) {
				t.Parallel()
				s := testserver.New(t, testserver.WithPort)
				v, dial := through(way.dial(s))
				l, _ := open(t, dial)
				nc := s.Conn(t)
				sub, got, release := blocked(t, l, "a", group)

				publish(t, nc, "a", 0, 10)
				if err := l.Flush(t.Context(), testTimeout); err != nil { // these have arrived
					t.Fatal(err)
				}
				let := v.hold()
				defer let()
				publish(t, nc, "a", 10, 20) // these are on their way
				result := make(chan error, 1)
				go func() { result <- l.EndInterest(t.Context(), sub, testTimeout) }()
				awaitNoInterest(t, s, "a")
				publish(t, nc, "a", 20, 30) // and these come too late
				none(t, result, "the end, before the messages that are on their way,")
				let()
				if err := next(t, result, "the end of the interest"); err != nil {
					t.Fatal(err)
				}
				if n, _, err := sub.Pending(); n != 20 || err != nil {
					t.Errorf("%d messages wait when EndInterest returns (%v), want 20", n, err)
				}
				release()
				expect(t, got, 20)
				if !sub.IsValid() {
					t.Error("the subscription has ended")
				}
				if err := sub.Unsubscribe(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// awaitNoInterest fails the test unless s soon forgets the subscriptions to subject.
func awaitNoInterest(t *testing.T, s *testserver.Server, subject string) {
	t.Helper()
	deadline := time.After(testTimeout)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for interest(t, s, subject) > 0 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the server goes on sending: it can read the number that should mean \"now\" to it")
		}
	}
}

// While nobody can be told, nothing comes; the interest must not come back with
// the connection.
func TestEndInterestWhileDisconnected(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before the loss", "after the loss"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			s, later := testserver.New(t), testserver.New(t)
			var r route
			r.to(s.InProcessConn)
			l, to := open(t, r.Dial)
			sub, got, release := blocked(t, l, "a", "")
			publish(t, s.Conn(t), "a", 0, 10)
			if err := l.Flush(t.Context(), testTimeout); err != nil {
				t.Fatal(err)
			}
			end := func() {
				if err := l.EndInterest(t.Context(), sub, testTimeout); err != nil {
					t.Fatal(err)
				}
			}
			if when == "before the loss" {
				end()
			}
			r.to(nowhere)
			s.Stop()
			next(t, to.disconnected, "the loss of the connection")
			if when == "after the loss" {
				began := time.Now()
				end()
				if took := time.Since(began); took >= testTimeout {
					t.Errorf("it waited %v for a server that is not there", took)
				}
			}
			r.to(later.InProcessConn)
			next(t, to.reconnected, "the connection")
			if err := l.Flush(t.Context(), testTimeout); err != nil {
				t.Fatal(err)
			}
			awaitNoInterest(t, later, "a")
			publish(t, later.Conn(t), "a", 10, 20)
			release()
			expect(t, got, 10)
		})
	}
}

func TestEndInterestErrors(t *testing.T) {
	t.Parallel()
	newSub := func(t *testing.T, l *link.Link) *nats.Subscription {
		t.Helper()
		sub, err := l.Conn().Subscribe("a", func(*nats.Msg) {})
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	for _, tc := range []struct {
		name string
		end  func(*testing.T, *link.Link, *peer) error
		want error
		took time.Duration
	}{
		{"a closed link", func(t *testing.T, l *link.Link, _ *peer) error {
			sub := newSub(t, l)
			l.Close()
			return l.EndInterest(t.Context(), sub, time.Hour)
		}, nats.ErrBadSubscription, 0},
		{"an ended subscription", func(t *testing.T, l *link.Link, _ *peer) error {
			sub := newSub(t, l)
			return errors.Join(sub.Unsubscribe(), l.EndInterest(t.Context(), sub, time.Hour))
		}, nats.ErrBadSubscription, 0},
		{"a mute server", func(t *testing.T, l *link.Link, _ *peer) error {
			return l.EndInterest(t.Context(), newSub(t, l), time.Minute)
		}, context.DeadlineExceeded, time.Minute},
		{"a context that ends", func(t *testing.T, l *link.Link, _ *peer) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return l.EndInterest(ctx, newSub(t, l), time.Minute)
		}, context.DeadlineExceeded, time.Second},
		{"a connection that is lost meanwhile", func(t *testing.T, l *link.Link, p *peer) error {
			time.AfterFunc(time.Second, func() { _ = p.Close() })
			return l.EndInterest(t.Context(), newSub(t, l), time.Minute)
		}, link.ErrDisconnected, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p, first := newPeer(t)
				var r route
				r.to(first)
				l, _ := open(t, r.Dial)
				r.to(nowhere)
				began := time.Now()
				err := tc.end(t, l, p)
				if took := time.Since(began); !errors.Is(err, tc.want) || took != tc.took {
					t.Errorf("got %v after %v, want %v after %v", err, took, tc.want, tc.took)
				}
			})
		})
	}
}

// TestEndInterestOfABusySubscription is about one that has had more messages
// than the number that unsubscribes says, which takes an hour at half a million
// a second: that must not make the client end it and drop what waits.
func TestEndInterestOfABusySubscription(t *testing.T) {
	t.Parallel()
	counts := []uint64{1_999_999_990, 2_000_000_000}
	if bits.UintSize == 64 {
		counts = append(counts, 20_000_000_000)
	}
	for _, delivered := range counts {
		t.Run(fmt.Sprint(delivered), func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			l, _ := open(t, s.InProcessConn)
			nc := s.Conn(t)
			sub, got, release := blocked(t, l, "a", "")
			pretendDelivered(t, sub, delivered)
			publish(t, nc, "a", 0, 20)
			if err := l.Flush(t.Context(), testTimeout); err != nil {
				t.Fatal(err)
			}
			if err := l.EndInterest(t.Context(), sub, testTimeout); err != nil {
				t.Fatal(err)
			}
			awaitNoInterest(t, s, "a")
			release()
			expect(t, got, 20)
		})
	}
}

// After many messages the client tells the server the rest of the number when
// the connection comes back, which must still be one that the server cannot read.
func TestEndInterestOfABusySubscriptionWhileDisconnected(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	l, to := open(t, s.InProcessConn)
	sub, _, _ := blocked(t, l, "a", "")
	had := uint64(1_500_000_000)
	if bits.UintSize == 32 {
		had = 1_000_000_000 // there is no larger number of which ten digits are left
	}
	pretendDelivered(t, sub, had)
	if err := l.EndInterest(t.Context(), sub, testTimeout); err != nil {
		t.Fatal(err)
	}
	reconnect(t, l, to)
	if err := l.Flush(t.Context(), testTimeout); err != nil {
		t.Fatal(err)
	}
	awaitNoInterest(t, s, "a")
}

// pretendDelivered makes sub believe that it has had n messages. Nothing may be
// coming to it.
func pretendDelivered(t *testing.T, sub *nats.Subscription, n uint64) {
	t.Helper()
	field := reflect.ValueOf(sub).Elem().FieldByName("delivered")
	if !field.IsValid() || field.Kind() != reflect.Uint64 {
		t.Fatal("nats.go counts what it delivered in another way: change this test")
	}
	*(*uint64)(unsafe.Pointer(field.UnsafeAddr())) = n
	if got, err := sub.Delivered(); err != nil || uint64(got) != n {
		t.Fatalf("nats.go says that %d were delivered (%v), want %d", got, err, n)
	}
}

// The server is told with a number of ten digits or more: see unsubscribeNow.
func TestEndInterestOnTheWire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, dial := newPeer(t)
		close(p.answer)
		l, _ := open(t, dial)
		sub, err := l.Conn().Subscribe("a", func(*nats.Msg) {})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.EndInterest(t.Context(), sub, time.Minute); err != nil {
			t.Fatal(err)
		}
		for line := ""; ; line = next(t, p.lines, "UNSUB") {
			if number, ok := strings.CutPrefix(line, "UNSUB 1 "); ok {
				if len(number) < 10 {
					t.Errorf("the server can read %q", number)
				}
				return
			}
		}
	})
}
