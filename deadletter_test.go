package bus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
)

// Every way to fail for good ends as a dead letter with payload and cause.
func TestDeadLetterOfEachCause(t *testing.T) {
	t.Parallel()
	failed := errors.New("no\r\nluck")
	three := bus.Retry(bus.RetryPolicy{MaxAttempts: 3})
	fails := func(err error) bus.Handler[even] {
		return func(context.Context, *bus.Msg[even]) error { return err }
	}
	for _, tc := range []struct {
		name     string
		data     string
		handler  bus.Handler[even]
		opts     []bus.ConsumeOption
		cause    bus.Cause
		attempts int
		text     string
	}{
		{"error", "2", fails(failed), []bus.ConsumeOption{three}, bus.CauseError, 3, "no  luck"},
		{"error, 25 attempts by default", "2", fails(failed), nil, bus.CauseError, 25, "no  luck"},
		{"error that asks for another attempt", "2", fails(bus.RetryAfter(time.Minute, failed)), []bus.ConsumeOption{three}, bus.CauseError, 3, "no  luck"},
		{"panic", "2", func(context.Context, *bus.Msg[even]) error { panic("ouch") }, []bus.ConsumeOption{three}, bus.CausePanic, 3, "bus: handler panicked: ouch"},
		{"deadline", "2", func(ctx context.Context, _ *bus.Msg[even]) error { <-ctx.Done(); return ctx.Err() },
			[]bus.ConsumeOption{three, bus.HandlerTimeout(time.Minute)}, bus.CauseDeadline, 3, "context deadline exceeded"},
		{"permanent", "2", fails(bus.Permanent(failed)), nil, bus.CausePermanent, 1, "no  luck"},
		{"permanent, wrapped", "2", fails(fmt.Errorf("x: %w", bus.Permanent(failed))), nil, bus.CausePermanent, 1, "x: no  luck"},
		{"permanent by the policy", "2", fails(failed), []bus.ConsumeOption{bus.Retry(bus.RetryPolicy{Permanent: func(err error) bool { return errors.Is(err, failed) }})},
			bus.CausePermanent, 1, "no  luck"},
		{"malformed", "{", fails(nil), nil, bus.CauseMalformed, 1, "decode application/json"},
		{"invalid", "3", fails(nil), nil, bus.CauseInvalid, 1, "3 is odd"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				began := time.Now()
				_, err := bus.PublishTo(t.Context(), st, "s.a", []byte(tc.data), bus.MsgID("id-1"), bus.WithHeader("Tenant", "x"))
				must(t, err)
				consume(t, st, "d", "s.*", tc.handler, tc.opts...)
				for len(events) < tc.attempts && time.Since(began) < 24*time.Hour {
					pass(time.Minute)
				}
				pass(time.Minute) // and no more
				ls := deadLetters(t, st, bus.DeadFilter{})
				if len(ls) != 1 {
					t.Fatalf("%d dead letters", len(ls))
				}
				l := ls[0]
				if l.Subject != "s.a" || string(l.Data) != tc.data || l.ID != "id-1" || l.Header.Get("Tenant") != "x" || l.Stream != "S" || l.Sequence != 1 ||
					!l.Time.Equal(began) || l.Durable != "d" || l.Cause != tc.cause || l.Attempt != tc.attempts || !strings.Contains(l.Error, tc.text) || l.DeadAt.Before(began) {
					t.Errorf("got %+v", l)
				}
				if i := consumerInfo(t, b, "S", "d"); i.NumAckPending != 0 || i.NumPending != 0 {
					t.Errorf("the message is not settled: %+v", i)
				}
				if s := b.Stats(); s.DeadLetters != 1 || s.Subscriptions[0].DeadLetters != 1 {
					t.Errorf("the statistics are %+v", s)
				}
				for range tc.attempts - 1 {
					nextEvent(t, events, event.Retry)
				}
				if e := nextEvent(t, events, event.DeadLetter); e.Subject != "s.a" || e.Stream != "S" || e.Durable != "d" || e.Sequence != 1 || e.Err == nil {
					t.Errorf("the event is %+v", e)
				}
				nothing(t, events)
			}, record)
		})
	}
}

// Redrive gives a dead letter to the consumer that gave it up, and to no other.
func TestRedrive(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		var broken atomic.Bool
		broken.Store(true)
		got := make(chan *bus.Msg[int], 100)
		consume(t, st, "billing", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
			if broken.Load() && m.Data%2 == 0 {
				return errors.New("the database is down")
			}
			got <- m
			return nil
		}, bus.Retry(bus.RetryPolicy{MaxAttempts: 2}))
		var others atomic.Int64
		consume(t, st, "audit", "s.*", func(context.Context, *bus.Msg[int]) error { others.Add(1); return nil })
		for i := range 10 {
			_, err := bus.PublishTo(t.Context(), st, "s.a", i, bus.MsgID(fmt.Sprint(i)))
			must(t, err)
		}
		time.Sleep(10 * time.Minute)
		if n := len(deadLetters(t, st, bus.DeadFilter{})); n != 5 || len(got) != 5 || others.Load() != 10 {
			t.Fatalf("%d dead letters, %d handled, %d by the other", n, len(got), others.Load())
		}
		if n, err := st.Redrive(t.Context(), bus.DeadFilter{Durable: "audit"}); n != 0 || err != nil {
			t.Errorf("redrove %d of a consumer without dead letters: %v", n, err)
		}
		n, err := st.Redrive(t.Context(), bus.DeadFilter{}) // still broken
		must(t, err)
		time.Sleep(10 * time.Minute)
		if m := len(deadLetters(t, st, bus.DeadFilter{})); n != 5 || m != 5 {
			t.Fatalf("redrove %d, %d are dead again", n, m)
		}
		broken.Store(false)
		for len(got) > 0 {
			<-got
		}
		n, err = st.Redrive(t.Context(), bus.DeadFilter{Durable: "billing"})
		must(t, err)
		time.Sleep(time.Minute)
		if m := len(deadLetters(t, st, bus.DeadFilter{})); n != 5 || m != 0 || len(got) != 5 || others.Load() != 10 {
			t.Fatalf("redrove %d, %d are left, %d handled, %d by the other", n, m, len(got), others.Load())
		}
		for i := range 5 { // in their order
			if m := <-got; m.Data != 2*i || m.ID != fmt.Sprint(2*i) || m.Subject != "s.a" || m.Sequence != uint64(2*i+1) || m.Stream != "S" || m.Attempt != 1 {
				t.Errorf("got %+v", m)
			}
		}
	})
}

// The filter chooses, and what it does not choose stays.
func TestDeadFilter(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		began := time.Now()
		for i, durable := range []string{"a", "b"} {
			consume(t, st, durable, "s.*", func(_ context.Context, m *bus.Msg[int]) error { return bus.Permanent(errors.New(m.Subject)) })
			time.Sleep(time.Second)
			for _, subject := range []bus.Subject[string]{"s.x", "s.y"} {
				if i == 0 {
					_, err := bus.PublishTo(t.Context(), st, subject, "no number")
					must(t, err)
					_, err = bus.PublishTo(t.Context(), st, bus.Subject[int](subject), 1, bus.WithHeader("Tenant", "x"), bus.WithHeader("Tenant", "z"))
					must(t, err)
				}
				time.Sleep(time.Minute)
			}
		}
		all := bus.DeadFilter{}
		tests := []struct {
			name   string
			filter bus.DeadFilter
			want   int
		}{
			{"all", all, 8},
			{"durable", bus.DeadFilter{Durable: "a"}, 4},
			{"durable that has none", bus.DeadFilter{Durable: "c"}, 0},
			{"subject", bus.DeadFilter{Subject: "s.x"}, 4},
			{"pattern", bus.DeadFilter{Subject: ">"}, 8},
			{"cause", bus.DeadFilter{Cause: bus.CauseMalformed}, 4},
			{"sequence", bus.DeadFilter{Sequence: 1}, 2},
			{"from", bus.DeadFilter{From: began.Add(90 * time.Second)}, 4},
			{"to", bus.DeadFilter{To: began.Add(90 * time.Second)}, 4},
			{"header", bus.DeadFilter{Header: bus.Header{"tenant": {"x"}}}, 4},
			{"header with another value", bus.DeadFilter{Header: bus.Header{"Tenant": {"y"}}}, 0},
			{"header of several", bus.DeadFilter{Header: bus.Header{"Tenant": {"z", "x"}}}, 4},
			{"header without value", bus.DeadFilter{Header: bus.Header{"Tenant": nil}}, 8},
			{"match", bus.DeadFilter{Match: func(l *bus.DeadLetter) bool { return l.Error == "s.y" }}, 2},
			{"several", bus.DeadFilter{Durable: "b", Subject: "s.x", Cause: bus.CausePermanent}, 1},
		}
		for _, tc := range tests {
			if got := deadLetters(t, st, tc.filter); len(got) != tc.want {
				t.Errorf("%s: %d dead letters, want %d", tc.name, len(got), tc.want)
			}
			n, err := st.DeadCount(t.Context(), tc.filter)
			if must(t, err); n != tc.want {
				t.Errorf("%s: counted %d, want %d", tc.name, n, tc.want)
			}
		}
		n, err := st.Discard(t.Context(), bus.DeadFilter{Durable: "a", Cause: bus.CauseMalformed})
		must(t, err)
		if left := deadLetters(t, st, all); n != 2 || len(left) != 6 {
			t.Errorf("discarded %d, %d are left", n, len(left))
		}
	})
}

// Whatever happens between the dead letter and the end of the original, there is one.
func TestDeadLetterIsWrittenOnce(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		for i := range 3 {
			_, err := bus.PublishTo(t.Context(), st, "s", i)
			must(t, err)
		}
		giveUp := func(context.Context, *bus.Msg[int]) error { return bus.Permanent(errors.New("no")) }
		for range 3 { // each time as if the terminations had been lost
			c := consume(t, st, "d", "s", giveUp)
			pass(10 * time.Minute) // longer than any window for duplicates
			must(t, c.Drain(t.Context()))
			must(t, b.JetStream().DeleteConsumer(t.Context(), "S", "d"))
		}
		if ls := deadLetters(t, st, bus.DeadFilter{}); len(ls) != 3 {
			t.Errorf("%d dead letters of 3 messages", len(ls))
		}
	})
}

// While a dead letter cannot be written the message stays, and the handler is not
// called again for it.
func TestDeadLetterThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		var calls atomic.Int64
		consume(t, st, "d", "s", counted(giveUp, &calls))
		js := b.JetStream()
		kept, err := js.Stream(t.Context(), "S-dead")
		must(t, err)
		full := kept.CachedInfo().Config
		full.MaxMsgs, full.Discard = 1, jetstream.DiscardNew
		_, err = js.UpdateStream(t.Context(), full)
		must(t, err)
		storeRange(t, st, "s", 0, 2)
		time.Sleep(time.Hour)
		awaitEvent(t, events, event.DeadLetter)
		e := awaitEvent(t, events, event.DeadLetterFailed)
		hasText(t, e.Err, "maximum messages exceeded")
		if i := consumerInfo(t, b, "S", "d"); i.NumAckPending != 1 || i.NumRedelivered != 0 {
			t.Errorf("the message did not stay: %+v", i)
		}
		unwell(t, b.Health(t.Context()), health.Degraded, "consumer", "d of stream S", "a dead letter could not be stored", "maximum messages exceeded")
		full.MaxMsgs = -1
		_, err = js.UpdateStream(t.Context(), full)
		must(t, err)
		time.Sleep(time.Minute)
		if n := len(deadLetters(t, st, bus.DeadFilter{})); n != 2 || calls.Load() != 2 {
			t.Errorf("%d dead letters after %d calls", n, calls.Load())
		}
		if r := b.Health(t.Context()); r.Status != health.Healthy {
			t.Errorf("when all are written it is %+v", r)
		}
	}, record)
}

// A message whose dead letter cannot be written, and which its process gave back for that,
// becomes one where it comes next: its attempts are used up.
func TestGivenBackWithoutItsDeadLetter(t *testing.T) {
	t.Parallel()
	const n = 150 // more than one message has room for
	long := strings.Repeat(" again", 200)
	for name, opts := range map[string][]bus.ConsumeOption{"with keys": {bus.KeyBySubject()}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				var calls atomic.Int64
				fails := func(_ context.Context, m *bus.Msg[int]) error {
					calls.Add(1)
					if m.Data%2 == 0 {
						return bus.Permanent(errors.New("never" + long))
					}
					return errors.New("no luck" + long)
				}
				opts := append(opts, bus.Retry(bus.RetryPolicy{MaxAttempts: 3}))
				first := consume(t, st, "d", "s.*", fails, opts...)
				allow := refuseAll(t, b, "S-dead")
				storeKeys(t, st, n, n)
				time.Sleep(5 * time.Second)
				must(t, first.Drain(t.Context()))
				second := consume(t, st, "d", "s.*", fails, opts...)
				time.Sleep(5 * time.Second)
				must(t, second.Drain(t.Context()))
				allow()
				consume(t, st, "d", "s.*", fails, opts...)
				time.Sleep(5 * time.Second)
				got := make(map[string]int)
				for _, l := range deadLetters(t, st, bus.DeadFilter{}) {
					got[fmt.Sprintf("%s, %d: %.5s", l.Cause, l.Attempt, l.Error)]++
				}
				want := map[string]int{"error, 3: no lu": n / 2, "permanent, 1: never": n / 2}
				if !maps.Equal(got, want) || calls.Load() != n/2*(1+3) {
					t.Errorf("dead letters %v after %d calls, want %v after %d", got, calls.Load(), want, n/2*(1+3))
				}
			}, bus.WithLogger(silent()), bus.WithMaxPayload(16<<10))
		})
	}
}

// A stream of dead letters that somebody deleted is made anew when there is one.
func TestDeadLettersThatAreDeleted(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		var calls atomic.Int64
		consume(t, st, "d", "s", counted(giveUp, &calls))
		js := b.JetStream()
		must(t, js.DeleteStream(t.Context(), "S-dead"))
		storeRange(t, st, "s", 0, 1)
		time.Sleep(time.Minute)
		nextEvent(t, events, event.DeadLetter)
		if ls := deadLetters(t, st, bus.DeadFilter{}); len(ls) != 1 || ls[0].Cause != bus.CausePermanent || calls.Load() != 1 {
			t.Errorf("%d dead letters after %d calls", len(ls), calls.Load())
		}
		mustBeDone(t, b, "S", "d")
	}, record)
}

// The stream of the dead letters does not come back after the stream itself was
// deleted.
func TestDeadLettersOfAStreamThatIsDeleted(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		consume(t, st, "d", "s", func(context.Context, *bus.Msg[int]) error {
			time.Sleep(time.Minute)
			return bus.Permanent(errors.New("no"))
		})
		storeRange(t, st, "s", 0, 1)
		time.Sleep(time.Second)
		for _, name := range []string{"S", "S-dead"} {
			must(t, b.JetStream().DeleteStream(t.Context(), name))
		}
		time.Sleep(time.Hour)
		isError(t, second(b.LookupStream(t.Context(), "S-dead")), bus.ErrStreamNotFound)
	}, bus.WithLogger(silent()))
}

// The largest message that can be stored fits as a dead letter.
func TestDeadLetterOfTheLargestMessage(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		subject := bus.Subject[[]byte]("s." + strings.Repeat("x", 1000))
		_, err := bus.PublishTo(t.Context(), st, subject, make([]byte, 2<<20))
		limit := asError[*bus.PayloadError](t, err).Limit
		_, err = bus.PublishTo(t.Context(), st, subject, make([]byte, limit))
		must(t, err)
		consume(t, st, strings.Repeat("d", 200), "s.*", func(context.Context, *bus.Msg[[]byte]) error {
			return bus.Permanent(errors.New(strings.Repeat("ü", 1<<20)))
		})
		time.Sleep(time.Minute)
		if ls := deadLetters(t, st, bus.DeadFilter{}); len(ls) != 1 || len(ls[0].Data) != limit || ls[0].Subject != subject.String() {
			t.Errorf("%d dead letters", len(ls))
		}
	})
}

// Long pauses between attempts are spent on the server: they hold up nothing, keep
// the attempts over a restart, and end in time.
func TestLongRetries(t *testing.T) {
	t.Parallel()
	dir, sync := bus.WithStoreDir(t.TempDir()+"/store"), bus.WithSync(bus.SyncEvery(time.Minute))
	bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
		failing := underRace(1001, 1200) // more than may be unfinished at a time
		failed := func(context.Context, *bus.Msg[int]) error {
			return bus.RetryAfter(time.Hour, errors.New("closed until later"))
		}
		began := time.Now()
		first := bustest.New(t, dir, sync)
		st := declare(t, first, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		for i := range failing {
			_, err := bus.PublishTo(t.Context(), st, "s", i)
			must(t, err)
		}
		consume(t, st, "d", "s", failed, bus.Concurrency(8))
		time.Sleep(time.Minute)
		if s := first.Stats(); s.HandlerErrors != int64(failing) || s.Subscriptions[0].Pending > 600 {
			t.Fatalf("the statistics are %+v", s)
		}
		must(t, first.Close())

		second := bustest.New(t, dir, sync)
		st, err := second.LookupStream(t.Context(), "S")
		must(t, err)
		_, err = bus.PublishTo(t.Context(), st, "s", failing) // is not held up
		must(t, err)
		got := make(chan *bus.Msg[int], 2*failing)
		consume(t, st, "d", "s", func(_ context.Context, m *bus.Msg[int]) error { got <- m; return nil })
		time.Sleep(30 * time.Minute)
		if m := receive(t, got); m.Data != failing || m.Attempt != 1 {
			t.Errorf("got %+v", m)
		}
		nothing(t, got)
		time.Sleep(time.Hour)
		var all []int
		for range failing {
			m := receive(t, got)
			if m.Attempt != 2 || m.Sequence != uint64(m.Data)+1 || m.Subject != "s" || time.Since(began) < time.Hour {
				t.Fatalf("got %+v", m)
			}
			all = append(all, m.Data)
		}
		slices.Sort(all)
		if nothing(t, got); len(slices.Compact(all)) != failing {
			t.Errorf("%d of %d messages came", len(all), failing)
		}
		must(t, second.Close())
	})
}

// A stop forgets no attempts of what waits for its next one.
func TestAttemptsSurviveAStop(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		_, err := bus.PublishTo(t.Context(), st, "s", 1)
		must(t, err)
		var attempts []int
		for range 5 {
			c := consume(t, st, "d", "s", func(_ context.Context, m *bus.Msg[int]) error {
				attempts = append(attempts, m.Attempt)
				return errors.New("no")
			}, bus.Retry(bus.RetryPolicy{MaxAttempts: 4, MinBackoff: 10 * time.Second, MaxBackoff: 10 * time.Second}))
			time.Sleep(time.Second)
			synctest.Wait()
			must(t, c.Drain(t.Context()))
			time.Sleep(10 * time.Second)
		}
		if want := []int{1, 2, 3, 4}; !slices.Equal(attempts, want) {
			t.Errorf("the attempts were %v, want %v", attempts, want)
		}
		if n := len(deadLetters(t, st, bus.DeadFilter{})); n != 1 {
			t.Errorf("%d dead letters", n)
		}
	})
}

func TestDeadLetterMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	if n := len(deadLetters(t, st, bus.DeadFilter{})); n != 0 {
		t.Errorf("%d dead letters of a stream that nobody consumes", n)
	}
	var none *bus.Stream
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	list := func(ctx context.Context, st *bus.Stream, f bus.DeadFilter) error {
		for l, err := range st.DeadLetters(ctx, f) {
			if l != nil {
				t.Errorf("got %+v", l)
			}
			return err
		}
		return nil
	}
	asError[*bus.OptionError](t, list(t.Context(), none, bus.DeadFilter{}), "stream is nil")
	asError[*bus.OptionError](t, list(t.Context(), st, bus.DeadFilter{Durable: "a.b"}), `"a.b"`)
	asError[*bus.SubjectError](t, list(t.Context(), st, bus.DeadFilter{Subject: "a..b"}))
	isError(t, list(cancelled, st, bus.DeadFilter{}), context.Canceled)
	asError[*bus.OptionError](t, second(st.Redrive(t.Context(), bus.DeadFilter{Durable: "a b"})))
	asError[*bus.OptionError](t, second(st.Discard(t.Context(), bus.DeadFilter{Durable: "a b"})))
	if bus.Permanent(nil) != nil {
		t.Error("Permanent(nil) is an error")
	}
	for _, p := range []bus.RetryPolicy{{MaxAttempts: -2}, {MinBackoff: -1}, {MinBackoff: 2, MaxBackoff: 1}} {
		_, err := bus.Consume(t.Context(), st, "d", "s", ignore[int], bus.Retry(p))
		asError[*bus.OptionError](t, err, "Retry")
	}
	must(t, b.Close())
	isError(t, list(t.Context(), st, bus.DeadFilter{}), bus.ErrClosed)
}

// Clients of other languages may use names of headers that no client of Go can send.
func TestDeadLetterWithHeadersOfOthers(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort())
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	u, err := url.Parse(b.ClientURL())
	must(t, err)
	nc, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", u.Host)
	must(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	const header = "NATS/1.0\r\nTenant ID: 7\r\nGood: 1\r\n\r\n"
	_, err = fmt.Fprintf(nc, "CONNECT {\"verbose\":false,\"headers\":true,\"protocol\":1}\r\nHPUB S %d %d\r\n%s1\r\nPING\r\n", len(header), len(header)+1, header)
	must(t, err)
	h := newMendable[int]()
	consume(t, st, "d", "S", h.handle)
	eventually(t, "the message is dead", func() bool { n, _ := st.DeadCount(t.Context(), bus.DeadFilter{}); return n == 1 })
	want := bus.Header{"Tenant ID": {"7"}, "Good": {"1"}}
	if l := deadLetters(t, st, bus.DeadFilter{})[0]; !reflect.DeepEqual(l.Header, want) {
		t.Errorf("the dead letter has %v", l.Header)
	}
	h.mended.Store(true)
	must(t, second(st.Redrive(t.Context(), bus.DeadFilter{})))
	if m := receive(t, h.got); !reflect.DeepEqual(m.Header, want) {
		t.Errorf("got %v", m.Header)
	}
}

// A stream of somebody else that has the name of one beside a stream is named, with
// what to do, and stays as it is.
func TestConsumeBesideAStreamOfSomebodyElse(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for name, beside := range map[string]string{"A": "A-dead", "B": "B-retry"} {
		st := declare(t, b, bus.StreamConfig{Name: name})
		declare(t, b, bus.StreamConfig{Name: beside, Subjects: []string{"of." + name}})
		_, err := bus.Consume(t.Context(), st, "d", bus.Subject[int](name), ignore[int])
		asError[*bus.StreamConflictError](t, err)
		hasText(t, err, strconv.Quote(name), "consume", strconv.Quote(beside), "of."+name, "let the program use another name for")
		if got := streamInfo(t, b, beside).Config.Subjects; !slices.Equal(got, []string{"of." + name}) {
			t.Errorf("it stores %v", got)
		}
	}
}
