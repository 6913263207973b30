package outlet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/testserver"
)

// refusal returns the answer with which a stream refuses a message.
func refusal(code int, text string) string {
	return fmt.Sprintf(`{"error":{"code":400,"err_code":%d,"description":%q},"stream":"S","seq":0}`, code, text)
}

// storeBothWays stores one message with Store and one with a Window, and checks the outcome
// of each. The stream gives the n-th answer to the n-th attempt.
func storeBothWays(t *testing.T, id string, answer func(n int) string, check func(outlet.Ack, error)) {
	t.Helper()
	for _, way := range []string{"Store", "Window"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testserver.New(t)
				stream(t, s, func(n int, _ *nats.Msg) string { return answer(n) })
				o := newSender(t, s)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if way == "Store" {
					check(o.Store(ctx, message(id)))
					return
				}
				w := outlet.NewWindow(o.Outlet, 1)
				ack, _, err := add(t, w, id, time.Minute).Wait(context.Background())
				check(ack, err)
				w.Close()
			})
		})
	}
}

// In a cluster another message may be in flight. Store tries again until that is stored.
func TestStoreWaitsForMessagesInFlight(t *testing.T) {
	t.Parallel()
	for _, code := range []int{10158, 10164, 10176, 10210} {
		for _, id := range []string{"", "x"} {
			t.Run(fmt.Sprint(code, id), func(t *testing.T) {
				t.Parallel()
				storeBothWays(t, id, func(n int) string {
					if n < 3 {
						return refusal(code, "under way")
					}
					return ackText
				}, func(ack outlet.Ack, err error) {
					if err != nil || ack.Sequence != 7 {
						t.Errorf("got %+v, %v", ack, err)
					}
				})
				storeBothWays(t, id, func(int) string { return refusal(code, "under way") }, func(_ outlet.Ack, err error) {
					refused, ok := errors.AsType[*jserr.Refusal](err)
					if !ok || refused.Number != code || errors.Is(err, outlet.ErrUnknown) {
						t.Errorf("got %v", err)
					}
				})
			})
		}
	}
}

// A refusal that the message itself may have brought about proves nothing once an
// answer was lost, nor does one that comes before the ID is looked for; another does, for
// the stream would have known the ID.
func TestStoreOutcomeIsUnknownWhenRefusedAfterALostAnswer(t *testing.T) {
	t.Parallel()
	for code, doubt := range map[int]bool{10071: true, 10164: true, 10201: true, 10002: true, 10023: true, 10109: true, 10077: false} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			storeBothWays(t, "x", func(n int) string {
				if n == 1 {
					return ""
				}
				return refusal(code, "no")
			}, func(_ outlet.Ack, err error) {
				refused, ok := errors.AsType[*jserr.Refusal](err)
				if !ok || refused.Number != code || errors.Is(err, outlet.ErrUnknown) != doubt {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// Leader elections and server starts leave a stream without responder for a
// moment.
func TestStoreWaitsForTheStream(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "id"} {
		t.Run("id="+id, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testserver.New(t)
				o := newSender(t, s)
				go func() {
					time.Sleep(300 * time.Millisecond)
					stream(t, s, func(int, *nats.Msg) string { return ackText })
				}()
				if _, err := o.Store(t.Context(), message(id)); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestStoreWithoutAStream(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		id           string
		limit        time.Duration // of the context
		want         error
		atLeast, max time.Duration
	}{
		{name: "no id", limit: time.Hour, want: nats.ErrNoResponders, atLeast: 500 * time.Millisecond, max: time.Second},
		{name: "id", id: "x", limit: time.Hour, want: nats.ErrNoResponders, atLeast: 500 * time.Millisecond, max: time.Second},
		{name: "short of time", limit: 250 * time.Millisecond, want: context.DeadlineExceeded, atLeast: 250 * time.Millisecond, max: 250 * time.Millisecond},
		{name: "short of time, id", id: "x", limit: 250 * time.Millisecond, want: context.DeadlineExceeded, atLeast: 250 * time.Millisecond, max: 250 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newSender(t, testserver.New(t))
				ctx, cancel := context.WithTimeout(t.Context(), c.limit)
				defer cancel()
				began := time.Now()
				_, err := o.Store(ctx, message(c.id))
				if took := time.Since(began); took < c.atLeast || took > c.max {
					t.Errorf("it took %v, want %v to %v", took, c.atLeast, c.max)
				}
				if !errors.Is(err, c.want) || errors.Is(err, outlet.ErrUnknown) {
					t.Errorf("got %v, want %v and no doubt that it is not stored", err, c.want)
				}
			})
		})
	}
}

// A try that was lost may have been stored, so a stream that is gone afterwards
// does not mean that the message is not.
func TestStoreOutcomeIsUnknownAfterALostAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		gone := s.Link(t)
		_, err := gone.Conn().Subscribe("stored", func(*nats.Msg) { gone.Close() })
		if err != nil {
			t.Fatal(err)
		}
		if err := gone.Flush(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		o := newSender(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := o.Store(ctx, message("x")); !errors.Is(err, outlet.ErrUnknown) {
			t.Errorf("got %v", err)
		}
	})
}

// What a later try says does not undo that an earlier one may have been stored.
func TestStoreOutcomeIsUnknownWhenALaterAttemptFails(t *testing.T) {
	t.Parallel()
	s, small := testserver.New(t), testserver.New(t, func(o *server.Options) { o.MaxPayload = 100 })
	var now atomic.Pointer[testserver.Server]
	now.Store(s)
	l := testserver.Dial(t, func() (net.Conn, error) { return now.Load().InProcessConn() })
	stream(t, s, func(int, *nats.Msg) string {
		now.Store(small)
		if err := l.Conn().ForceReconnect(); err != nil {
			t.Error(err)
		}
		return ""
	})
	o := outlet.New(l, nil, new(telemetry.Bus))
	m := message("x")
	m.Data = make([]byte, 200)
	_, err := o.Store(t.Context(), m)
	large, ok := errors.AsType[*outlet.TooLargeError](err)
	if !errors.Is(err, outlet.ErrUnknown) || !ok || large.Limit != 100 || large.Size < 200 {
		t.Errorf("got %v, want that nobody knows", err)
	}
}
