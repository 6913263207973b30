package bus_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
)

// stuckEvents records what is told of stuck keys.
func stuckEvents() (bus.ConnectOption, <-chan event.Event) {
	ch := make(chan event.Event, 10)
	return bus.WithEvents(func(e event.Event) {
		if e.Kind == event.KeyStuck {
			ch <- e
		}
	}), ch
}

// deadOf is the sequences of the dead letters, in the order in which they died.
func deadOf(t testing.TB, st *bus.Stream, f bus.DeadFilter) (all []uint64) {
	t.Helper()
	for _, l := range deadLetters(t, st, f) {
		all = append(all, l.Sequence)
	}
	return all
}

// A key whose message is a dead letter has the others behind it, also those that come
// later and after a restart. Redriven they come back in order, and new ones after them.
func TestKeyFollows(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		var got keyLog
		var fails atomic.Bool
		fails.Store(true)
		start := func() *bus.Consumer {
			return consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
				got.begin(t, m.Subject)
				failed := fails.Load() && m.Sequence == 4
				got.end(m.Subject, m.Sequence, !failed)
				if failed {
					return errNo
				}
				return nil
			}, bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows), bus.Concurrency(4), twice)
		}
		con := start()
		storeKeys(t, st, 3, 12) // k0: 1 4 7 10
		pass(time.Second)
		storeKeys(t, st, 3, 3) // 13
		pass(time.Second)
		must(t, con.Drain(t.Context()))
		con = start()
		storeKeys(t, st, 3, 3) // 16
		pass(time.Second)
		if dead := deadOf(t, st, bus.DeadFilter{}); !slices.Equal(dead, []uint64{4, 7, 10, 13, 16}) {
			t.Fatalf("dead letters: %v", dead)
		}
		if dead := deadOf(t, st, bus.DeadFilter{Cause: bus.CauseBehind}); !slices.Equal(dead, []uint64{7, 10, 13, 16}) {
			t.Errorf("behind: %v", dead)
		}
		for _, l := range deadLetters(t, st, bus.DeadFilter{}) {
			if want := map[bool]int{true: 2, false: 0}[l.Sequence == 4]; l.Attempt != want {
				t.Errorf("dead letter %d has %d attempts, want %d", l.Sequence, l.Attempt, want)
			}
		}
		if got.distinct() != 13 {
			t.Errorf("%d messages were handled, want 13", got.distinct())
		}
		n, err := st.Redrive(t.Context(), bus.DeadFilter{}) // it fails again, and all behind it
		must(t, err)
		pass(time.Second)
		if dead := deadOf(t, st, bus.DeadFilter{}); n != 5 || !slices.Equal(dead, []uint64{4, 7, 10, 13, 16}) {
			t.Fatalf("%d redriven, dead letters are %v", n, dead)
		}
		fails.Store(false)
		_, err = st.Redrive(t.Context(), bus.DeadFilter{Sequence: 7}) // not before 4
		must(t, err)
		pass(time.Second)
		if dead := deadOf(t, st, bus.DeadFilter{}); len(dead) != 5 || got.distinct() != 13 {
			t.Fatalf("dead letters are %v", dead)
		}
		_, err = st.Redrive(t.Context(), bus.DeadFilter{})
		must(t, err)
		storeKeys(t, st, 3, 3) // 19, at once
		pass(time.Second)
		if dead := deadOf(t, st, bus.DeadFilter{}); len(dead) != 0 || got.distinct() != 21 {
			t.Errorf("dead letters are %v, handled %d", dead, got.distinct())
		}
		got.mustBeInOrder(t)
		must(t, con.Drain(t.Context()))
		mustBeDone(t, b, "S", "c")
	})
}

// What is redriven while nobody consumes comes back before what came meanwhile.
func TestParkedKeysComeBackAfterARestart(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		var got keyLog
		con := consume(t, st, "c", "s.*", giveUp, bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows))
		storeKeys(t, st, 2, 100)
		pass(time.Second)
		must(t, con.Drain(t.Context()))
		storeKeys(t, st, 2, 100)
		n, err := st.Redrive(t.Context(), bus.DeadFilter{})
		if err != nil || n != 100 {
			t.Fatalf("%d were redriven, %v", n, err)
		}
		consume(t, st, "c", "s.*", got.failing(t, 0.1, 0), bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows), bus.Concurrency(4), always)
		pass(time.Minute)
		got.mustBeOnce(t, 200)
		got.mustBeInOrder(t)
	})
}

// A dead letter that was discarded is in nobody's way.
func TestParkedKeyIsFreeAfterDiscard(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		var got ledger
		consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Sequence == 1 {
				return bus.Permanent(errNo)
			}
			return got.handle(ctx, m)
		}, bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows))
		storeKeys(t, st, 1, 3)
		pass(time.Second)
		n, err := st.Discard(t.Context(), bus.DeadFilter{})
		if err != nil || n != 3 {
			t.Fatalf("%d were discarded, %v", n, err)
		}
		storeKeys(t, st, 1, 3)
		pass(time.Second)
		if !slices.Equal(got.sequences(), []uint64{4, 5, 6}) {
			t.Errorf("handled were %v", got.sequences())
		}
	})
}

// However many messages come behind one that fails: other keys go on, and nothing becomes a
// dead letter. Those behind it come back in order, also what comes meanwhile.
func TestAStuckKeyStopsNoOther(t *testing.T) {
	t.Parallel()
	record, events := stuckEvents()
	many := underRace(1501, 5001)
	for rule, name := range map[bus.KeyRule]string{bus.KeyFollows: "KeyFollows", bus.KeyGoesOn: "KeyGoesOn"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				storeKeys(t, st, 1, many)
				for n := range 100 {
					_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.other%d", n)), n)
					must(t, err)
				}
				var got ledger
				consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
					if m.Sequence == 1 && m.Attempt == 1 {
						return bus.RetryAfter(time.Hour, errNo)
					}
					return got.handle(ctx, m)
				}, bus.KeyBySubject(), bus.AfterDeadLetter(rule), bus.Concurrency(4))
				pass(time.Minute)
				if got.distinct() != 100 {
					t.Errorf("%d messages of other keys were handled, want 100", got.distinct())
				}
				e := receive(t, events)
				isError(t, e.Err, errNo, "message 1", "wait behind")
				if e.Subject != "s.k0" || e.Sequence != 1 || e.Durable != "c" {
					t.Errorf("the event is %+v", e)
				}
				if r := b.Health(t.Context()); r.Status != health.Healthy {
					t.Errorf("the report is %+v", r)
				}
				storeKeys(t, st, 1, 100)
				pass(time.Hour)
				ofKey := slices.DeleteFunc(got.sequences(), func(seq uint64) bool { return seq > uint64(many) && seq <= uint64(many)+100 })
				if got.distinct() != many+200 || len(ofKey) != many+100 || !slices.IsSorted(ofKey) {
					t.Errorf("%d messages were handled, %d of the key, in order: %v", got.distinct(), len(ofKey), slices.IsSorted(ofKey))
				}
				if dead := deadOf(t, st, bus.DeadFilter{}); len(dead) > 0 {
					t.Errorf("dead letters: %v", dead)
				}
				mustBeDone(t, b, "S", "c")
			}, record)
		})
	}
}

// A backlog in which messages of all keys fail now and then: nothing becomes a dead letter,
// each key keeps its order, and nothing is reported as stuck. The consumer is restarted in
// between.
func TestKeysUnderABacklog(t *testing.T) {
	t.Parallel()
	many := underRace(2000, 5000)
	for _, keys := range []int{1, 20, 100} {
		t.Run(fmt.Sprint(keys), func(t *testing.T) {
			t.Parallel()
			record, events := stuckEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				storeKeys(t, st, keys, many)
				var got keyLog
				start := func() *bus.Consumer {
					return consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
						got.begin(t, m.Subject)
						failed := m.Attempt <= failuresOf(m.Sequence)
						got.end(m.Subject, m.Sequence, !failed)
						if failed {
							return errNo
						}
						return nil
					}, bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows), bus.Concurrency(8))
				}
				con := start()
				pass(3 * time.Second)
				must(t, con.Drain(t.Context()))
				con = start()
				for passed := 0; passed < 300 && got.distinct() < many; passed++ {
					pass(time.Second)
				}
				if dead := deadOf(t, st, bus.DeadFilter{}); len(dead) > 0 {
					t.Errorf("%d dead letters", len(dead))
				}
				if len(events) > 0 {
					t.Errorf("reported is %v", receive(t, events).Err)
				}
				got.mustBeOnce(t, many)
				got.mustBeInOrder(t)
				must(t, con.Drain(t.Context()))
				mustBeDone(t, b, "S", "c")
			}, record)
		})
	}
}

// What waits behind a failing message is in its place again after a restart.
func TestFollowersComeBackAfterARestart(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeKeys(t, st, 2, 3000)
		var got keyLog
		var fails atomic.Bool
		fails.Store(true)
		for range 3 {
			con := consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
				got.begin(t, m.Subject)
				failed := m.Subject == "s.k0" && m.Sequence > 100 && fails.Load()
				got.end(m.Subject, m.Sequence, !failed)
				if failed {
					return bus.RetryAfter(10*time.Second, errNo)
				}
				return nil
			}, bus.KeyBySubject(), bus.Concurrency(4))
			pass(time.Minute)
			if got.distinct() < 1500+50 {
				t.Errorf("%d messages were handled", got.distinct())
			}
			storeKeys(t, st, 2, 100)
			pass(time.Second)
			must(t, con.Drain(t.Context()))
			fails.Store(false)
		}
		got.mustBeOnce(t, 3300)
		got.mustBeInOrder(t)
		mustBeDone(t, b, "S", "c")
	})
}

// What waits behind a failing message comes back, too, if the consumer does not keep the order
// of keys any more.
func TestFollowersComeBackWithoutKeys(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeKeys(t, st, 1, 1500)
		con := consume(t, st, "c", "s.*", func(context.Context, *bus.Msg[int]) error {
			return bus.RetryAfter(time.Hour, errNo)
		}, bus.KeyBySubject())
		pass(time.Minute)
		must(t, con.Drain(t.Context()))
		var got ledger
		consume(t, st, "c", "s.*", got.handle)
		pass(time.Minute)
		if got.distinct() != 1500 {
			t.Errorf("%d messages were handled", got.distinct())
		}
		mustBeDone(t, b, "S", "c")
	})
}

// A key stops no other also while its message runs, is postponed, and runs again.
func TestAStuckKeyThatIsPostponed(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		declareSmall(t, b, 30*time.Second)
		var other, stuck ledger
		var postponed atomic.Bool
		consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
			switch {
			case m.Subject != "s.stuck":
				return other.handle(ctx, m)
			case m.Sequence > 1 || postponed.Load():
				return stuck.handle(ctx, m)
			case m.Attempt == 1:
				return errNo
			}
			time.Sleep(time.Minute)
			postponed.Store(true)
			return bus.Postpone(2*time.Hour, errNo)
		}, bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows))
		storeRange(t, st, "s.stuck", 0, 1)
		pass(10 * time.Second) // the second attempt runs
		storeRange(t, st, "s.stuck", 1, 2*roomFor)
		storeRange(t, st, "s.other", 0, 3)
		pass(10 * time.Minute)
		if dead := deadOf(t, st, bus.DeadFilter{}); other.distinct() != 3 || len(dead) != 0 {
			t.Errorf("%d of another key were handled, dead letters: %v", other.distinct(), dead)
		}
		pass(2 * time.Hour)
		if !slices.IsSorted(stuck.sequences()) || stuck.distinct() != 2*roomFor {
			t.Errorf("%d of the key were handled", stuck.distinct())
		}
		mustBeDone(t, b, "S", "c")
	})
}

// However few messages a durable may have out: one that fails with nothing behind it is
// tried again.
func TestKeyFollowsInASmallDurable(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		_, err := b.JetStream().CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "c", FilterSubject: "s.*",
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: 3})
		must(t, err)
		consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
			if m.Attempt < 3 {
				return errNo
			}
			return nil
		}, bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows))
		storeKeys(t, st, 1, 1)
		pass(time.Minute)
		if dead := deadOf(t, st, bus.DeadFilter{}); len(dead) != 0 {
			t.Errorf("dead letters: %v", dead)
		}
		mustBeDone(t, b, "S", "c")
	})
}

// A key may also be stuck among what comes back, of which fewer may be out than of the
// stream itself.
func TestAKeyThatIsStuckAmongWhatComesBack(t *testing.T) {
	t.Parallel()
	for policy, name := range map[bus.KeyRule]string{bus.KeyFollows: "KeyFollows", bus.KeyGoesOn: "KeyGoesOn"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			record, events := stuckEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				storeRange(t, st, "s.stuck", 0, 100)
				storeRange(t, st, "s.other", 0, 1)
				opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.AfterDeadLetter(policy)}
				con := consume(t, st, "c", "s.*", giveUp, opts...)
				pass(time.Minute)
				must(t, con.Drain(t.Context()))
				few := consumerInfo(t, b, "S-retry", "c").Config
				few.MaxAckPending = 20
				must(t, second(b.JetStream().UpdateConsumer(t.Context(), "S-retry", few)))
				var other ledger
				consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
					if m.Subject == "s.stuck" {
						return bus.RetryAfter(time.Hour, errNo)
					}
					return other.handle(ctx, m)
				}, opts...)
				must(t, second(st.Redrive(t.Context(), bus.DeadFilter{})))
				pass(time.Minute)
				if len(events) == 0 {
					t.Fatal("nothing is told of it")
				}
				if e := receive(t, events); e.Subject != "s.stuck" || e.Sequence != 1 {
					t.Errorf("the event is %+v", e)
				}
				if dead := deadOf(t, st, bus.DeadFilter{}); other.distinct() != 1 || len(dead) > 0 {
					t.Errorf("%d messages of another key were handled, dead are %v", other.distinct(), dead)
				}
			}, record)
		})
	}
}

func TestAfterDeadLetterMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	_, err := bus.Consume(t.Context(), st, "c", "S", giveUp, bus.AfterDeadLetter(bus.KeyFollows))
	asError[*bus.OptionError](t, err, "AfterDeadLetter", "no keys")
	_, err = bus.Consume(t.Context(), st, "c", "S", giveUp, bus.KeyBySubject(), bus.AfterDeadLetter(7))
	asError[*bus.OptionError](t, err, "AfterDeadLetter", "7")
	_, err = bus.Consume(t.Context(), st, "c", "S", giveUp, bus.Retry(bus.RetryPolicy{MaxCrashes: -2}))
	asError[*bus.OptionError](t, err, "Retry", "MaxCrashes -2")
}
