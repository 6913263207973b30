package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// With one handler at a time the messages come in the stream's order, and each
// says where it is from.
func TestConsumeKeepsTheOrder(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeRange(t, st, "s.a", 0, 700) // more than fit into one request for messages
		var got ledger
		var began time.Time
		con := consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
			got.note(m.Sequence)
			if m.Data != int(m.Sequence)-1 || m.Stream != "S" || m.Subject != "s.a" || m.Attempt != 1 || m.Deliveries != 1 ||
				m.ID != fmt.Sprintf("S/%d", m.Sequence) || m.Time.Before(began) {
				t.Errorf("got %+v", m)
			}
			began = m.Time
			return nil
		})
		storeRange(t, st, "s.a", 700, 1500)
		synctest.Wait()
		if !slices.Equal(got.sequences(), upTo(1500)) {
			t.Errorf("not in order: %v", got.sequences())
		}
		if s := b.Stats(); s.Received != 1500 || s.Handled != 1500 || s.HandlerErrors != 0 || s.InFlight != 0 {
			t.Errorf("the statistics are %+v", s)
		}
		s := b.Stats().Subscriptions[0]
		if s.Stream != "S" || s.Durable != "c" || s.Subject != "s.*" || s.Queue != "" || s.Pending != 0 || s.Redelivered != 0 {
			t.Errorf("the consumer's are %+v", s)
		}
		must(t, con.Drain(t.Context()))
		mustBeDone(t, b, "S", "c")
	})
}

// What was acknowledged never comes again: not later, and not to who goes on.
func TestConsumeAcknowledges(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		var got ledger
		for round := range 4 {
			con := consume(t, st, "c", "S", got.handle, bus.AckWait(2*time.Second))
			storeRange(t, st, "S", 50*round, 50*round+50)
			pass(time.Minute)
			must(t, con.Drain(t.Context()))
			receive(t, con.Done())
			must(t, con.Err())
			got.mustBeOnce(t, 50*round+50)
			mustBeDone(t, b, "S", "c")
		}
		// Another name begins with the first stored message.
		var all ledger
		consume(t, st, "other", "S", all.handle)
		synctest.Wait()
		all.mustBeOnce(t, 200)
	})
}

// Only what matches the filter is handled, and what does not is never held.
func TestConsumeFilters(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		for i := range 10 {
			storeRange(t, st, "s.a.x", i, i+1)
			storeRange(t, st, "s.b.x", i, i+1)
			storeRange(t, st, "s.a.y.z", i, i+1)
		}
		var got sync.Map
		for durable, filter := range map[string]bus.Subject[int]{"one": "s.a.x", "star": "s.*.x", "tail": "s.a.>", "all": "s.>"} {
			var n atomic.Int64
			got.Store(durable, &n)
			consume(t, st, durable, filter, func(_ context.Context, m *bus.Msg[int]) error {
				if _, ok := filter.Match(m.Subject); !ok {
					t.Errorf("%s got %s", durable, m.Subject)
				}
				n.Add(1)
				return nil
			})
		}
		synctest.Wait()
		for durable, want := range map[string]int64{"one": 10, "star": 20, "tail": 20, "all": 30} {
			n, _ := got.Load(durable)
			if n := n.(*atomic.Int64).Load(); n != want {
				t.Errorf("%s got %d messages, want %d", durable, n, want)
			}
			mustBeDone(t, b, "S", durable)
		}
	})
}

// A handler may take as long as it likes, and messages wait behind it as long:
// nobody else gets them.
func TestConsumeKeepsLongHandlersAlive(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 3} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				storeRange(t, st, "S", 0, 30)
				var got ledger
				handler := func(takes time.Duration) bus.Handler[int] {
					return func(_ context.Context, m *bus.Msg[int]) error {
						time.Sleep(takes)
						got.note(m.Sequence)
						if m.Deliveries != 1 {
							t.Errorf("message %d was delivered %d times", m.Sequence, m.Deliveries)
						}
						return nil
					}
				}
				opts := []bus.ConsumeOption{bus.AckWait(time.Second), bus.Concurrency(concurrency)}
				consume(t, st, "c", "S", handler(time.Minute), opts...)
				synctest.Wait()
				consume(t, st, "c", "S", handler(0), opts...) // would get what the first one lets go
				pass(10 * time.Second)
				if n := got.distinct(); n > 30-concurrency-1 {
					t.Fatalf("%d were handled already, none waits behind the slow handlers", n)
				}
				pass(31 * time.Minute)
				got.mustBeOnce(t, 30)
				mustBeDone(t, b, "S", "c")
			})
		})
	}
}

// Concurrency n means n at once, and not one more.
func TestConsumeConcurrencyIsExact(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 7, 300} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				storeRange(t, st, "S", 0, 3*n)
				var now, most atomic.Int64
				var got ledger
				consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
					most.Store(max(most.Load(), now.Add(1)))
					time.Sleep(time.Minute)
					now.Add(-1)
					got.note(m.Sequence)
					return nil
				}, bus.Concurrency(n))
				synctest.Wait()
				if s := b.Stats(); now.Load() != int64(n) || s.InFlight != n || s.Subscriptions[0].Pending > 2*n {
					t.Errorf("%d run, in flight %d, pending %d; want %d, %d, at most %d", now.Load(), s.InFlight, s.Subscriptions[0].Pending, n, n, 2*n)
				}
				pass(3 * time.Minute)
				if most.Load() != int64(n) || now.Load() != 0 {
					t.Errorf("at most %d at once, %d left; want %d, 0", most.Load(), now.Load(), n)
				}
				got.mustBeOnce(t, 3*n)
				mustBeDone(t, b, "S", "c")
			})
		})
	}
}

// Who consumes with the same name shares the messages: two on one bus, and two
// buses.
func TestConsumersShareADurable(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		other func(*testing.T, *bus.Bus) *bus.Bus
	}{
		{"on one bus", func(_ *testing.T, b *bus.Bus) *bus.Bus { return b }},
		{"on two buses", func(t *testing.T, b *bus.Bus) *bus.Bus { return connectTo(t, b) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, anyPort())
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			const n = 2000
			var got ledger
			var counts [2]atomic.Int64
			all := make(chan struct{})
			both := make(chan struct{}, 2)
			for i, on := range []*bus.Bus{b, tc.other(t, b)} {
				on, err := on.LookupStream(t.Context(), "S")
				must(t, err)
				consume(t, on, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
					got.note(m.Sequence)
					if counts[i].Add(1) == 1 {
						both <- struct{}{}
					}
					if counts[0].Load()+counts[1].Load() == n {
						close(all)
					}
					return nil
				}, bus.Concurrency(2))
			}
			storeRange(t, st, "S", 0, n)
			receive(t, both)
			receive(t, both)
			receive(t, all)
			for _, c := range b.Stats().Subscriptions {
				if c.Stream != "S" || c.Durable != "c" {
					t.Errorf("got %+v", c)
				}
			}
			must(t, b.Flush(t.Context()))
			got.mustBeOnce(t, n)
		})
	}
}

// Drain gives back what was not begun, soon: another member need not wait until
// AckWait is over. What waited for its next attempt goes on waiting for it, and is
// counted on.
func TestConsumerDrainGivesBack(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		const soon = 100 * time.Millisecond
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 100)
		release := make(chan struct{})
		var first, second ledger
		opts := []bus.ConsumeOption{bus.Concurrency(2), bus.AckWait(time.Hour), bus.Retry(bus.RetryPolicy{MinBackoff: 20 * time.Second})}
		leaving := consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
			switch m.Sequence {
			case 1:
				return errors.New("later")
			case 3:
				<-release
			case 4:
				<-release
				return errors.New("in the end it failed")
			}
			first.note(m.Sequence)
			return nil
		}, opts...)
		synctest.Wait()
		consume(t, st, "c", "S", func(ctx context.Context, m *bus.Msg[int]) error {
			if failed := m.Sequence == 1 || m.Sequence == 4; failed != (m.Attempt == 2) || m.Attempt > 2 {
				t.Errorf("message %d came as attempt %d", m.Sequence, m.Attempt)
			}
			return second.handle(ctx, m)
		}, opts...)
		pass(soon)
		if n := second.distinct(); n > 95 {
			t.Fatalf("the first one has only %d messages, and none to give back", 100-n)
		}
		drained := make(chan error, 1)
		go func() { drained <- leaving.Drain(t.Context()) }()
		pass(soon)
		if n := second.distinct(); n != 96 {
			t.Errorf("%d messages came at once, want 96", n)
		}
		nothing(t, drained) // two handlers run
		nothing(t, leaving.Done())
		close(release)
		pass(soon)
		must(t, <-drained)
		receive(t, leaving.Done())
		if got := first.sequences(); !slices.Equal(got, []uint64{2, 3}) {
			t.Errorf("the first one handled %v, want 2 and 3", got)
		}
		pass(time.Minute)
		if n := second.distinct(); n != 98 {
			t.Errorf("the second one handled %d, want 98", n)
		}
		if i := consumerInfo(t, b, "S", "c"); i.NumAckPending != 0 || i.NumPending != 0 {
			t.Errorf("the server has %+v", i)
		}
	}, bus.WithLogger(silent()))
}

// A drain that cannot wait says what it left, and that comes again.
func TestConsumerDrainThatRunsOutOfTime(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 3)
		release := make(chan struct{})
		con := consume(t, st, "c", "S", func(ctx context.Context, _ *bus.Msg[int]) error {
			<-release
			return ctx.Err()
		}, bus.AckWait(10*time.Second))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		err := con.Drain(ctx)
		d := asError[*bus.DrainError](t, err, `"S"`, "1 handler running")
		isError(t, err, context.DeadlineExceeded)
		if took := time.Since(began); d.Running != 1 || d.Subject != "S" || took != time.Minute {
			t.Errorf("after %v: %+v", took, d)
		}
		if again := con.Drain(t.Context()); again != err {
			t.Errorf("the second call got %v, the first %v", again, err)
		}
		receive(t, con.Done())
		must(t, con.Err())
		var got ledger
		consume(t, st, "c", "S", got.handle)
		synctest.Wait()
		if n := got.distinct(); n != 2 {
			t.Errorf("%d messages came at once, want the 2 that were not begun", n)
		}
		pass(time.Minute) // and the one that was, when nobody keeps it alive any more
		got.mustBeOnce(t, 3)
		close(release)
		synctest.Wait()
	}, bus.WithLogger(silent()))
}

// A durable that exists is used as it is, or refused with what differs.
func TestConsumerConflicts(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	for _, tc := range []struct {
		name   string
		exists jetstream.ConsumerConfig
		fields string
		text   []string
	}{
		{"filter", jetstream.ConsumerConfig{FilterSubject: "s.b", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1}, "filter", []string{"filter: have s.b, want s.a"}},
		{"wider filter", jetstream.ConsumerConfig{FilterSubject: "s.>", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1}, "filter", []string{"have s.>, want s.a"}},
		{"several filters", jetstream.ConsumerConfig{FilterSubjects: []string{"s.a", "s.b"}, AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1}, "filter", []string{"s.a s.b"}},
		{"no filter", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1}, "filter", nil},
		{"no acknowledgements", jetstream.ConsumerConfig{FilterSubject: "s.a", AckPolicy: jetstream.AckNonePolicy}, "ack policy", nil},
		{"acknowledges all before", jetstream.ConsumerConfig{FilterSubject: "s.a", AckPolicy: jetstream.AckAllPolicy, MaxDeliver: -1}, "ack policy", nil},
		{"gives up", jetstream.ConsumerConfig{FilterSubject: "s.a", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 5}, "max deliver", []string{"max deliver: have 5, want no limit"}},
		{"everything", jetstream.ConsumerConfig{FilterSubject: "s.b", AckPolicy: jetstream.AckAllPolicy, MaxDeliver: 5}, "filter ack policy max deliver", []string{"use another durable"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.exists.Durable = strings.ReplaceAll(tc.name, " ", "_")
			_, err := b.JetStream().CreateConsumer(t.Context(), "S", tc.exists)
			must(t, err)
			before := consumerInfo(t, b, "S", tc.exists.Durable).Config
			con, err := bus.Consume(t.Context(), st, tc.exists.Durable, "s.a", ignore[int])
			if con != nil {
				t.Error("it consumes")
			}
			e := asError[*bus.ConsumerConflictError](t, err, tc.text...)
			var fields []string
			for _, f := range e.Fields {
				fields = append(fields, f.Field)
			}
			if got := strings.Join(fields, " "); got != tc.fields || e.Stream != "S" || e.Durable != tc.exists.Durable {
				t.Errorf("got %+v, want %s", e, tc.fields)
			}
			if after := consumerInfo(t, b, "S", tc.exists.Durable).Config; fmt.Sprintf("%+v", after) != fmt.Sprintf("%+v", before) {
				t.Errorf("it was changed from %+v to %+v", before, after)
			}
		})
	}
	if n := len(b.Stats().Subscriptions); n != 0 {
		t.Errorf("%d consumers are listed", n)
	}
	// A consumer to which the server pushes cannot be shared.
	_, err := b.JetStream().CreatePushConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "pushed", DeliverSubject: "x", FilterSubject: "s.a"})
	must(t, err)
	_, err = bus.Consume(t.Context(), st, "pushed", "s.a", ignore[int])
	asError[*bus.StreamError](t, err, `"S"`)
}

// The first member's filter holds for the durable, and the last one's AckWait, if it
// gives one.
func TestConsumeTheSameAgain(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	consume(t, st, "c", "s.a", ignore[int], bus.AckWait(20*time.Second))
	consume(t, st, "c", "s.a", ignore[int], bus.AckWait(40*time.Second))
	consume(t, st, "c", "s.a", ignore[int])
	eventually(t, "a member asks for messages", func() bool { return consumerInfo(t, b, "S", "c").NumWaiting > 0 })
	_, err := bus.Consume(t.Context(), st, "c", "s.*", ignore[int])
	asError[*bus.ConsumerConflictError](t, err, "have s.a, want s.*")
	if w := consumerInfo(t, b, "S", "c").Config.AckWait; w != 40*time.Second {
		t.Errorf("AckWait is %v, the last member that gave one said 40s", w)
	}
}

func TestBadConsumers(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*", "x"}})
	declare(t, b, bus.StreamConfig{Name: "OTHER", Subjects: []string{"other"}})
	for _, name := range []string{"", "a.b", "a b", "*", ">", "a/b", "größe", "a\r\nb", strings.Repeat("x", 201)} {
		_, err := bus.Consume(t.Context(), st, name, "s.a", ignore[int])
		if o := asError[*bus.OptionError](t, err, "200 letters, digits"); !strings.Contains(o.Option, "durable") || strings.ContainsAny(err.Error(), "\r\n") {
			t.Errorf("%q: got %+v", name, o)
		}
	}
	for _, filter := range []bus.Subject[int]{"other", "y", "s.a.b", "s", "s.>.a", "", "s..a", "s a"} {
		_, err := bus.Consume(t.Context(), st, "c", filter, ignore[int])
		if s := asError[*bus.SubjectError](t, err); s.Subject != string(filter) {
			t.Errorf("%q: got %+v", filter, s)
		}
	}
	_, err := bus.Consume(t.Context(), st, "c", "other", ignore[int])
	asError[*bus.SubjectError](t, err, `stream "S" stores nothing that matches`, "it stores s.*, x")
	for name, o := range map[string]bus.ConsumeOption{
		"AckWait":        bus.AckWait(time.Second - 1),
		"Retry":          bus.Retry(bus.RetryPolicy{MinBackoff: -1}),
		"Retry ":         bus.Retry(bus.RetryPolicy{MinBackoff: time.Hour, MaxBackoff: time.Minute}),
		"Retry  ":        bus.Retry(bus.RetryPolicy{MaxBackoff: time.Millisecond}), // less than the default's first
		"Concurrency":    bus.Concurrency(0),
		"Use":            bus.Use(nil),
		"HandlerTimeout": bus.HandlerTimeout(-1),
	} {
		_, err := bus.Consume(t.Context(), st, "c", "s.a", ignore[int], o)
		if e := asError[*bus.OptionError](t, err); e.Option != strings.TrimSpace(name) || e.Reason == "" {
			t.Errorf("%s: got %+v", name, e)
		}
	}
	must(t, b.JetStream().DeleteStream(t.Context(), "S"))
	_, err = bus.Consume(t.Context(), st, "c", "s.a", ignore[int])
	isError(t, err, bus.ErrStreamNotFound, `"S"`, "consume", "declare it with Bus.Stream")
	if n := len(b.Stats().Subscriptions); n != 0 {
		t.Errorf("%d consumers are listed", n)
	}
}

// One option may be given to several calls at once.
func TestAnOptionOfSeveralCalls(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	retry := bus.Retry(bus.RetryPolicy{MaxAttempts: 3})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			_, err := bus.Consume(t.Context(), st, fmt.Sprint("d", i), bus.Subject[int]("S"), ignore[int], retry)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// A durable can be made for subjects that others have added to the stream.
func TestConsumeOfSubjectsThatOthersAdded(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"x.a"}})
	must(t, second(b.JetStream().UpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"x.a", "x.b"}, Storage: jetstream.MemoryStorage})))
	h, got := collect[int](1)
	consume(t, st, "c", "x.b", h)
	must(t, second(bus.PublishTo(t.Context(), st, "x.b", 7)))
	if v := receive(t, got); v != 7 {
		t.Errorf("got %d", v)
	}
	_, err := bus.Consume(t.Context(), st, "d", "x.c", ignore[int])
	asError[*bus.SubjectError](t, err, "stores nothing that matches", "it stores x.a, x.b")
}
