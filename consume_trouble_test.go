package bus_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
)

// Members with slow handlers take no more than their share.
func TestConsumersShareSlowWork(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		const total = 200
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		for i := range total {
			_, err := bus.PublishTo(t.Context(), st, "s", i)
			must(t, err)
		}
		var shares [2]atomic.Int64
		var last atomic.Int64
		began := time.Now()
		for i := range shares {
			consume(t, st, "d", "s", func(context.Context, *bus.Msg[int]) error {
				time.Sleep(time.Second) // in the bubble: virtual time
				shares[i].Add(1)
				last.Store(int64(time.Since(began)))
				return nil
			})
		}
		time.Sleep(10 * time.Minute)
		a, c := shares[0].Load(), shares[1].Load()
		if took := time.Duration(last.Load()); a+c != total || min(a, c) < 90 || took > 110*time.Second {
			t.Errorf("the shares are %d and %d, it took %v", a, c, took)
		}
	})
}

// Slow handlers are not taken for a server that is silent.
func TestSlowHandlersAreNoStall(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		for i := range 256 {
			_, err := bus.PublishTo(t.Context(), st, "s", i)
			must(t, err)
		}
		slow := func(context.Context, *bus.Msg[int]) error {
			time.Sleep(20 * time.Second) // in the bubble: virtual time
			return nil
		}
		consume(t, st, "d", "s", slow)
		time.Sleep(90 * time.Minute)
		nothing(t, events)
		if s := b.Stats(); s.Handled != 256 {
			t.Errorf("the statistics are %+v", s)
		}
	}, record)
}

// More than the server keeps for one connection does not come at once.
func TestConsumeLargeMessages(t *testing.T) {
	t.Parallel()
	const total, size = 136, 512 << 10 // 68 MiB, in a server that gives up at 64
	b := bustest.New(t, bus.WithMaxMemory(128<<20))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	for range total {
		_, err := bus.PublishTo(t.Context(), st, "s", make([]byte, size))
		must(t, err)
	}
	release, got := make(chan struct{}), make(chan int, total)
	consume(t, st, "d", "s", func(_ context.Context, m *bus.RawMsg) error {
		<-release
		got <- len(m.Data)
		return nil
	})
	consume(t, st, "e", "s", func(_ context.Context, m *bus.RawMsg) error { return nil })
	eventually(t, "the other consumer has all", func() bool { return consumerInfo(t, b, "S", "e").NumPending == 0 })
	if s := b.Stats(); s.Subscriptions[0].PendingBytes+s.Subscriptions[1].PendingBytes > 16<<20 {
		t.Errorf("the statistics are %+v", s)
	}
	close(release)
	for range total {
		if n := receive(t, got); n != size {
			t.Fatalf("got %d bytes", n)
		}
	}
	if s := b.Stats(); s.Disconnects != 0 {
		t.Errorf("the connection was lost: %+v", s)
	}
}

// Sequences of a stream that is made anew mean other messages.
func TestConsumeOfAStreamThatIsMadeAnew(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		config := bus.StreamConfig{Name: "S", Subjects: []string{"s"}}
		publish := func(from int) {
			st := declare(t, b, config)
			for i := range 100 {
				_, err := bus.PublishTo(t.Context(), st, "s", from+i)
				must(t, err)
			}
		}
		publish(0)
		st := declare(t, b, config)
		var mu sync.Mutex
		seen := map[int]int{}
		consume(t, st, "d", "s", func(_ context.Context, m *bus.Msg[int]) error {
			if m.Data < 100 {
				time.Sleep(20 * time.Second) // in the bubble: virtual time
			}
			mu.Lock()
			defer mu.Unlock()
			seen[m.Data]++
			return nil
		}, bus.Concurrency(8))
		time.Sleep(time.Second)
		recreate(t, b, config, "d")
		publish(1000)
		time.Sleep(20 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		for i := range 100 {
			if seen[1000+i] != 1 {
				t.Errorf("message %d was handled %d times", 1000+i, seen[1000+i])
			}
		}
		if i := consumerInfo(t, b, "S", "d"); i.NumAckPending != 0 || i.NumPending != 0 {
			t.Errorf("not all is settled: %+v", i)
		}
	})
}

// Who is told of trouble may end the consumer, and the bus.
func TestEndingFromAStalledEvent(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*bus.Bus, *bus.Consumer) error{
		"Drain": func(_ *bus.Bus, c *bus.Consumer) error { return c.Drain(context.Background()) },
		"Close": func(b *bus.Bus, _ *bus.Consumer) error { return b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var consumer atomic.Pointer[bus.Consumer]
			var on atomic.Pointer[bus.Bus]
			ended := make(chan error, 10)
			told := bus.WithEvents(func(e event.Event) {
				if e.Kind == event.ConsumerStalled {
					ended <- end(on.Load(), consumer.Load())
				}
			})
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				on.Store(b)
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
				consumer.Store(consume(t, st, "d", "s", ignore[int]))
				_ = b.JetStream().DeleteStream(t.Context(), "S") // its answer may come when the bus has been closed
				time.Sleep(25 * time.Second)                     // in the bubble: virtual time
				if len(ended) == 0 {
					t.Fatal("it did not end")
				}
				must(t, <-ended)
			}, told)
		})
	}
}

// What another program puts among the messages that come back is no endless retry and reaches
// no handler that it is not for. What is a copy keeps its payload, as a dead letter.
func TestOddCopies(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change nats.Header
		calls  int // of the handler
		cause  bus.Cause
		event  event.Kind
		stays  bool // in S-retry
	}{
		"as the library writes it": {calls: 3, cause: bus.CauseError, event: event.DeadLetter},
		"attempts that overflow":   {change: nats.Header{"Bus-Attempts": {"9223372036854775807"}}, calls: 1, cause: bus.CauseError, event: event.DeadLetter},
		"attempts beyond int64":    {change: nats.Header{"Bus-Attempts": {"99999999999999999999"}}, calls: 1, cause: bus.CauseError, event: event.DeadLetter},
		"negative attempts":        {change: nats.Header{"Bus-Attempts": {"-9223372036854775808"}}, event: event.OddRecord, stays: true},
		"another subject":          {change: nats.Header{"Bus-Origin-Subject": {"secrets.x"}}, cause: bus.CauseUnrouted, event: event.DeadLetter},
		"another stream":           {change: nats.Header{"Bus-Origin-Stream": {"T"}}, event: event.OddRecord},
		"a time without an end":    {change: nats.Header{"Bus-Origin-Time": {"9999-01-01T00:00:00Z"}}, event: event.OddRecord, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Retention: bus.WorkQueueRetention}) // where no original is looked up
				var calls atomic.Int64
				consume(t, st, "d", "s.*", func(context.Context, *bus.Msg[int]) error {
					if calls.Add(1) > 10 {
						return bus.Permanent(errors.New("it never ends"))
					}
					return errors.New("no")
				}, bus.Retry(bus.RetryPolicy{MaxAttempts: 3}))
				m := nats.NewMsg("$OMNIBUS.retry.S.d.x.1")
				m.Header = nats.Header{"Bus-Origin-Subject": {"s.a"}, "Bus-Origin-Stream": {"S"}, "Bus-Origin-Sequence": {"1"},
					"Bus-Origin-Time": {"2026-01-01T00:00:00Z"}, "Bus-Attempts": {"0"}}
				maps.Copy(m.Header, tc.change)
				m.Data = []byte("7")
				must(t, second(b.JetStream().PublishMsg(t.Context(), m)))
				pass(time.Minute)
				if n := int(calls.Load()); n != tc.calls {
					t.Errorf("the handler was called %d times, want %d", n, tc.calls)
				}
				awaitEvent(t, events, tc.event)
				degraded := slices.ContainsFunc(b.Health(t.Context()).Problems, func(p health.Problem) bool { return strings.Contains(p.Reason, "cannot be read") })
				if left := streamInfo(t, b, "S-retry").State.Msgs; left > 0 != tc.stays || degraded != tc.stays {
					t.Errorf("%d messages are left in S-retry, health knows it: %t", left, degraded)
				}
				dead := deadLetters(t, st, bus.DeadFilter{})
				if len(dead) > 1 || (len(dead) == 1) != (tc.cause != "") || len(dead) == 1 && (dead[0].Cause != tc.cause || string(dead[0].Data) != "7") {
					t.Errorf("dead letters: %+v", dead)
				}
			}, record)
		})
	}
}

// What another version of the library has put aside in S-retry stays there until it can be read.
// Later messages of its key wait meanwhile, those of other keys do not.
func TestCopiesOfAnotherVersion(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind  string
		while bool // it is deleted while the durable is consumed
	}{{"later", false}, {"retry", false}, {"later", true}, {"retry", true}} {
		t.Run(fmt.Sprintf("%s, deleted meanwhile %t", tc.kind, tc.while), func(t *testing.T) {
			t.Parallel()
			kind := tc.kind
			record, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				var got ledger
				start := func() *bus.Consumer {
					return consume(t, st, "c", "s.*", got.handle, bus.KeyBySubject())
				}
				con := start()
				storeRange(t, st, "s.a", 1, 2)
				pass(time.Second)
				must(t, con.Drain(t.Context()))
				token := sha256.Sum256([]byte("s.a"))
				subject := fmt.Sprintf("$OMNIBUS.%s.S.c.%s.1.%x", kind, strconv.FormatInt(streamInfo(t, b, "S").Created.UnixNano(), 36), token[:12])
				ack, err := b.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: nats.Header{"Bus-Origin-Follower": {"version 2"}}, Data: []byte("0")})
				must(t, err)
				storeRange(t, st, "s.a", 2, 4)
				storeRange(t, st, "s.b", 4, 6)
				for range 2 { // also in the next process
					con = start()
					pass(30 * time.Second)
					if all := got.sequences(); !slices.Equal(all, []uint64{1, 4, 5}) {
						t.Errorf("handled were %v", all)
					}
					if e := awaitEvent(t, events, event.OddRecord); e.Sequence != 1 || e.Durable != "c" {
						t.Errorf("got %+v", e)
					}
					if r := b.Health(t.Context()); r.Status != health.Degraded || !strings.Contains(r.Problems[0].Reason, "cannot be read") {
						t.Errorf("health is %+v", r)
					}
					must(t, con.Drain(t.Context()))
				}
				side, err := b.JetStream().Stream(t.Context(), "S-retry")
				must(t, err)
				if tc.while {
					start()
					pass(time.Second)
				}
				must(t, side.DeleteMsg(t.Context(), ack.Sequence)) // as one that can read it does
				if !tc.while {
					start()
				}
				pass(30 * time.Second)
				if all := got.sequences(); !slices.Equal(all, []uint64{1, 4, 5, 2, 3}) {
					t.Errorf("handled were %v", all)
				}
				healthy(t, b)
				awaitAll(t, b, "S", "c")
			}, record, bus.WithLogger(silent()))
		})
	}
}

// Without keys a message that a process cannot read reaches another member, which may be able to. It is
// reported once.
func TestCopyOfAnotherVersionWithoutKey(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		consume(t, st, "c", "s.*", ignore[int])
		must(t, second(b.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: "$OMNIBUS.retry.S.c.x.1", Header: nats.Header{"Bus-Origin-Follower": {"version 2"}}, Data: []byte("0")})))
		pass(time.Minute)
		if r := b.Health(t.Context()); r.Status != health.Degraded || !strings.Contains(r.Problems[0].Reason, "cannot be read") {
			t.Errorf("health is %+v", r)
		}
		awaitEvent(t, events, event.OddRecord)
		if len(events) > 0 {
			t.Errorf("also reported is %+v", receive(t, events))
		}
		came := make(chan *nats.Msg, 1)
		inbox := b.Conn().NewInbox()
		sub, err := b.Conn().ChanSubscribe(inbox, came)
		must(t, err)
		must(t, b.Conn().PublishRequest("$JS.API.CONSUMER.MSG.NEXT.S-retry.c", inbox, []byte(`{"batch":1,"expires":60000000000}`)))
		pass(50 * time.Second)
		if m := receive(t, came); m.Header.Get("Bus-Origin-Follower") != "version 2" {
			t.Errorf("got %v", m.Header)
		} else {
			must(t, m.Respond([]byte("+ACK")))
		}
		must(t, sub.Unsubscribe())
		pass(time.Second)
		healthy(t, b)
	}, record, bus.WithLogger(silent()))
}
