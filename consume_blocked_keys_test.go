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
func TestParkKey(t *testing.T) {
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
			}, bus.KeyBySubject(), bus.OnStuckKey(bus.ParkKey), bus.Concurrency(4), twice)
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
		con := consume(t, st, "c", "s.*", giveUp, bus.KeyBySubject(), bus.OnStuckKey(bus.ParkKey))
		storeKeys(t, st, 2, 100)
		pass(time.Second)
		must(t, con.Drain(t.Context()))
		storeKeys(t, st, 2, 100)
		n, err := st.Redrive(t.Context(), bus.DeadFilter{})
		if err != nil || n != 100 {
			t.Fatalf("%d were redriven, %v", n, err)
		}
		consume(t, st, "c", "s.*", got.failing(t, 0.1, 0), bus.KeyBySubject(), bus.OnStuckKey(bus.ParkKey), bus.Concurrency(4), always)
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
		}, bus.KeyBySubject(), bus.OnStuckKey(bus.ParkKey))
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

// However many messages come behind one that fails, other keys go on: its key is
// parked, in order.
func TestAStuckKeyIsParked(t *testing.T) {
	t.Parallel()
	record, events := stuckEvents()
	many := underRace(1501, 5001)
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeKeys(t, st, 1, many)
		for n := range 100 {
			_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.other%d", n)), n)
			must(t, err)
		}
		var got ledger
		consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Subject == "s.k0" {
				return bus.RetryAfter(time.Hour, errNo)
			}
			return got.handle(ctx, m)
		}, bus.KeyBySubject(), bus.OnStuckKey(bus.ParkKey), bus.Concurrency(4))
		pass(time.Minute)
		if got.distinct() != 100 {
			t.Errorf("%d messages of other keys were handled, want 100", got.distinct())
		}
		dead := deadLetters(t, st, bus.DeadFilter{})
		if len(dead) != many || dead[0].Sequence != 1 || dead[0].Cause != bus.CauseError || dead[0].Attempt != 1 || dead[many-1].Cause != bus.CauseBehind {
			t.Fatalf("%d dead letters, the first is %+v", len(dead), dead[0])
		}
		for i, l := range dead {
			if l.Sequence != uint64(i+1) {
				t.Fatalf("dead letter %d is of message %d", i, l.Sequence)
			}
		}
		e := receive(t, events)
		isError(t, e.Err, errNo, "message 1", "wait behind")
		if e.Subject != "s.k0" || e.Sequence != 1 || e.Durable != "c" {
			t.Errorf("the event is %+v", e)
		}
		mustBeDone(t, b, "S", "c")
	}, record)
}

// A key is parked also when its message runs while it gets stuck, and is postponed.
func TestAStuckKeyThatIsPostponedIsParked(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		var other ledger
		consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
			switch {
			case m.Subject != "s.stuck":
				return other.handle(ctx, m)
			case m.Attempt == 1:
				return errNo
			}
			time.Sleep(time.Minute)
			return bus.Postpone(24*time.Hour, errNo)
		}, bus.KeyBySubject(), bus.OnStuckKey(bus.ParkKey))
		storeRange(t, st, "s.stuck", 0, 1)
		pass(10 * time.Second) // the second attempt runs
		storeRange(t, st, "s.stuck", 1, 1200)
		storeRange(t, st, "s.other", 0, 3)
		pass(10 * time.Minute)
		dead := deadLetters(t, st, bus.DeadFilter{})
		if other.distinct() != 3 || len(dead) != 1200 || dead[0].Sequence != 1 || dead[0].Attempt != 1 {
			t.Errorf("%d of another key were handled, %d dead letters: %+v", other.distinct(), len(dead), dead[:min(len(dead), 1)])
		}
		mustBeDone(t, b, "S", "c")
	})
}

// A message that is given up when it fails is not reported as a retry before.
func TestAStuckKeyThatIsParkedIsNoRetry(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeRange(t, st, "s.stuck", 0, 600)
		consume(t, st, "c", "s.*", func(context.Context, *bus.Msg[int]) error {
			time.Sleep(time.Minute) // in the bubble: virtual time
			return errNo
		}, bus.KeyBySubject(), bus.OnStuckKey(bus.ParkKey))
		pass(5 * time.Minute)
		if dead := deadLetters(t, st, bus.DeadFilter{}); len(dead) != 600 || dead[0].Attempt != 1 {
			t.Errorf("%d dead letters: %+v", len(dead), dead[:min(len(dead), 1)])
		}
		for seen := false; !seen; {
			e := receive(t, events)
			if e.Kind == event.Retry {
				t.Errorf("a retry is reported: %+v", e)
			}
			seen = e.Kind == event.DeadLetter
		}
		mustBeDone(t, b, "S", "c")
	}, record)
}

// However few messages a durable may have out: one that fails with nothing behind it is
// tried again.
func TestParkKeyOfASmallDurable(t *testing.T) {
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
		}, bus.KeyBySubject(), bus.OnStuckKey(bus.ParkKey))
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
	for policy, name := range map[bus.StuckKey]string{bus.ParkKey: "ParkKey", bus.BlockKey: "BlockKey"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			record, events := stuckEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				storeRange(t, st, "s.stuck", 0, 100)
				storeRange(t, st, "s.other", 0, 1)
				opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.OnStuckKey(policy)}
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
				if policy == bus.BlockKey {
					unwell(t, b.Health(t.Context()), health.Degraded, "consumer", "c of stream S", "wait behind message 1")
				} else if dead := deadOf(t, st, bus.DeadFilter{}); other.distinct() != 1 || !slices.Equal(dead, upTo(100)) {
					t.Errorf("%d messages of another key were handled, dead are %v", other.distinct(), dead)
				}
			}, record)
		})
	}
}

// With BlockKey all keys wait when nothing more fits. That is told, and ends with the
// message that fails.
func TestAStuckKeyBlocks(t *testing.T) {
	t.Parallel()
	record, events := stuckEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeKeys(t, st, 1, 1500)
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int]("s.other"), 1)
		must(t, err)
		var got ledger
		consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Sequence == 1 {
				return bus.RetryAfter(5*time.Minute, errNo)
			}
			return got.handle(ctx, m)
		}, bus.KeyBySubject(), twice)
		pass(time.Minute)
		e := receive(t, events)
		isError(t, e.Err, errNo)
		if got.distinct() != 0 {
			t.Errorf("%d messages were handled", got.distinct())
		}
		unwell(t, b.Health(t.Context()), health.Degraded, "consumer", "c of stream S", "wait behind message 1")
		pass(6 * time.Minute) // the second attempt
		ofKey := slices.DeleteFunc(got.sequences(), func(seq uint64) bool { return seq > 1500 })
		if got.distinct() != 1500 || !slices.IsSorted(ofKey) {
			t.Errorf("%d messages were handled, in order: %v", got.distinct(), slices.IsSorted(ofKey))
		}
		if dead := deadOf(t, st, bus.DeadFilter{}); !slices.Equal(dead, []uint64{1}) {
			t.Errorf("dead letters: %v", dead)
		}
		mustBeDone(t, b, "S", "c")
	}, record)
}

func TestOnStuckKeyMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	_, err := bus.Consume(t.Context(), st, "c", "S", giveUp, bus.OnStuckKey(bus.ParkKey))
	asError[*bus.OptionError](t, err, "OnStuckKey", "no keys")
	_, err = bus.Consume(t.Context(), st, "c", "S", giveUp, bus.KeyBySubject(), bus.OnStuckKey(7))
	asError[*bus.OptionError](t, err, "OnStuckKey", "7")
	_, err = bus.Consume(t.Context(), st, "c", "S", giveUp, bus.Retry(bus.RetryPolicy{MaxCrashes: -2}))
	asError[*bus.OptionError](t, err, "Retry", "MaxCrashes -2")
}
