package outlet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
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

const ackText = `{"stream":"S","seq":7,"domain":"d"}`

func TestStoreWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		id    string
		tries int64 // within a minute
	}{
		{name: "no id: never twice", tries: 1},
		{name: "id: until the context ends", id: "x", tries: 29},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testserver.New(t)
				var tries atomic.Int64
				stream(t, s, func(int, *nats.Msg) string { tries.Add(1); return "" })
				o := newSender(t, s)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := o.Store(ctx, message(c.id))
				if !errors.Is(err, outlet.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want that nobody knows", err)
				}
				if n := tries.Load(); n != c.tries {
					t.Errorf("sent %d times, want %d", n, c.tries)
				}
			})
		})
	}
}

func TestStoreWithAnIDRepeatsUntilItIsAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		stream(t, s, func(n int, m *nats.Msg) string {
			if m.Header.Get("Nats-Msg-Id") != "x" {
				t.Errorf("try %d has the header %v", n, m.Header)
			}
			if n < 4 {
				return ""
			}
			return ackText
		})
		o := newSender(t, s)
		ack, err := o.Store(t.Context(), message("x"))
		if err != nil || ack.Sequence != 7 {
			t.Errorf("got %+v, %v", ack, err)
		}
	})
}

func TestStoreEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "x"} {
		t.Run("id="+id, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testserver.New(t)
				stream(t, s, func(int, *nats.Msg) string { return "" })
				o := newSender(t, s)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(700*time.Millisecond, cancel)
				began := time.Now()
				_, err := o.Store(ctx, message(id))
				if took := time.Since(began); took != 700*time.Millisecond {
					t.Errorf("it took %v, the context was cancelled after 700ms", took)
				}
				if !errors.Is(err, outlet.ErrUnknown) || !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func TestStoreWhenTheConnectionIsLost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		id   string
		ok   bool
	}{{name: "no id"}, {name: "id", id: "x", ok: true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			o := newSender(t, s)
			stream(t, s, func(n int, _ *nats.Msg) string {
				if n == 1 {
					if err := o.link.Conn().ForceReconnect(); err != nil {
						t.Error(err)
					}
					return ""
				}
				return ackText
			})
			_, err := o.Store(t.Context(), message(c.id))
			if c.ok && err != nil {
				t.Errorf("got %v, want that it tries again", err)
			}
			if !c.ok && !errors.Is(err, outlet.ErrUnknown) {
				t.Errorf("got %v, want that nobody knows", err)
			}
		})
	}
}

// A bus that could not wait closes the connection under those who publish. There
// is nothing left to try then.
func TestStoreWhenTheConnectionIsClosed(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "x"} {
		t.Run("id="+id, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testserver.New(t)
				o := newSender(t, s)
				stream(t, s, func(int, *nats.Msg) string { o.link.Close(); return "" })
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				began := time.Now()
				_, err := o.Store(ctx, message(id))
				if !errors.Is(err, outlet.ErrUnknown) {
					t.Errorf("got %v, want that nobody knows", err)
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("it went on for %v", took)
				}
			})
		})
	}
}

// Whoever shuts the gate waits for those who are about to store something.
func TestShuttingTheGateWaitsForStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		stream(t, s, func(int, *nats.Msg) string { time.Sleep(time.Second); return ackText })
		o := newSender(t, s)
		stored := make(chan error, 1)
		go func() {
			_, err := o.Store(t.Context(), message(""))
			stored <- err
		}()
		synctest.Wait()
		if err := o.link.Shut(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		select {
		case err := <-stored:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("the gate is shut while somebody is inside")
		}
	})
}

// While there is no connection a message is not sent again: each try would wait in
// the buffer for the next connection, which is full in the end.
func TestStoreAttemptsOnlyWhileConnected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		var tries atomic.Int64
		stream(t, s, func(int, *nats.Msg) string { tries.Add(1); return "" })
		l, latest, blocked := dialTestConn(t, s, 0)
		o := outlet.New(l, nil, new(telemetry.Bus))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		stored := make(chan error, 1)
		go func() {
			_, err := o.Store(ctx, message("x"))
			stored <- err
		}()
		time.Sleep(3 * time.Second)
		if n := tries.Load(); n != 2 {
			t.Errorf("%d tries reached the stream, want 2", n)
		}
		blocked.Store(true)
		_ = latest().Close()
		time.Sleep(time.Minute)
		if n, err := l.Conn().Buffered(); n != 0 || err != nil {
			t.Errorf("%d bytes wait for the next connection: %v", n, err)
		}
		if err := <-stored; !errors.Is(err, outlet.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want that nobody knows", err)
		}
	})
}

// What was sent over a connection that is lost is sent again when there is another one,
// and not only when its answer is late.
func TestStoreRepeatsWhatALostConnectionTook(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(context.Context, *outlet.Outlet) (outlet.Ack, error){
		"Store": func(ctx context.Context, o *outlet.Outlet) (outlet.Ack, error) { return o.Store(ctx, message("x")) },
		"StoreBatch": func(ctx context.Context, o *outlet.Outlet) (outlet.Ack, error) {
			return o.StoreBatch(ctx, &outlet.Batch{Name: "b", Messages: []outlet.Message{*message("x")}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			l, latest, _ := dialTestConn(t, s, 0)
			stream(t, s, func(n int, _ *nats.Msg) string {
				if n == 1 {
					_ = latest().Close()
					return ""
				}
				return ackText
			})
			o := outlet.New(l, nil, new(telemetry.Bus))
			o.SetAttemptTimeout(time.Hour)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := store(ctx, o); err != nil {
				t.Error(err)
			}
		})
	}
}

// The first try may wait there, and is in doubt from then on.
func TestStoreBeginsWithoutAConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, latest, blocked := dialTestConn(t, testserver.New(t), 0)
		o := outlet.New(l, nil, new(telemetry.Bus))
		blocked.Store(true)
		_ = latest().Close()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := o.Store(ctx, message("x"))
		if n, _ := l.Conn().Buffered(); n == 0 || n > 200 {
			t.Errorf("%d bytes wait for the next connection, want one message", n)
		}
		if !errors.Is(err, outlet.ErrUnknown) {
			t.Errorf("got %v, want that nobody knows", err)
		}
	})
}

// With an ID a try has a deadline of its own; that costs no goroutine where the
// context can tell of its end by itself.
func TestStoreUsesAfterFunc(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	stream(t, s, func(int, *nats.Msg) string { return ackText })
	ctx := &afterFuncContext{Context: t.Context(), done: make(chan struct{})}
	if _, err := newSender(t, s).Store(ctx, message("x")); err != nil {
		t.Fatal(err)
	}
	if ctx.begun.Load() == 0 || ctx.begun.Load() != ctx.stopped.Load() {
		t.Errorf("%d functions wait for the end, %d were taken back", ctx.begun.Load(), ctx.stopped.Load())
	}
}

// afterFuncContext is a context of another kind than those of the standard library.
type afterFuncContext struct {
	context.Context
	done           chan struct{}
	begun, stopped atomic.Int64
}

func (c *afterFuncContext) Done() <-chan struct{} { return c.done }

func (c *afterFuncContext) AfterFunc(func()) func() bool {
	c.begun.Add(1)
	return func() bool { c.stopped.Add(1); return true }
}

func TestStoreReadsTheAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, answer string
		want         outlet.Ack
		refusal      *jserr.Refusal
		text         string // of another error
	}{
		{name: "stored", answer: ackText, want: outlet.Ack{Stream: "S", Sequence: 7, Domain: "d"}},
		{name: "duplicate", answer: `{"stream":"S","seq":3,"duplicate":true}`, want: outlet.Ack{Stream: "S", Sequence: 3, Duplicate: true}},
		{name: "refused", answer: `{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"S","seq":0}`,
			refusal: &jserr.Refusal{Code: 503, Number: 10077, Description: "maximum messages exceeded"}},
		{name: "no JSON", answer: `+OK`, text: "not an acknowledgement"},
		{name: "other JSON", answer: `{"hello":"world"}`, text: "not an acknowledgement"},
		{name: "no sequence", answer: `{"stream":"S","seq":0}`, text: "not an acknowledgement"},
		{name: "a number", answer: `7`, text: "not an acknowledgement"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			stream(t, s, func(int, *nats.Msg) string { return c.answer })
			o := newSender(t, s)
			ack, err := o.Store(t.Context(), message(""))
			if ack != c.want {
				t.Errorf("got %+v, want %+v", ack, c.want)
			}
			var refusal *jserr.Refusal
			switch {
			case c.refusal != nil:
				if !errors.As(err, &refusal) || *refusal != *c.refusal {
					t.Errorf("got error %v", err)
				}
			case c.text != "":
				if err == nil || !strings.Contains(err.Error(), c.text) {
					t.Errorf("got error %v", err)
				}
			case err != nil:
				t.Errorf("got error %v", err)
			}
			stored, failed := o.counters.Published.Load(), o.counters.PublishFailed.Load()
			if good := c.want.Stream != ""; good && stored != 1 || !good && failed != 1 || stored+failed != 1 {
				t.Errorf("counted %d published and %d failed", stored, failed)
			}
		})
	}
}

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
