package bus_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// failuresOf is how often a message fails: 5 % of the messages do, one to three times.
func failuresOf(sequence uint64) int {
	h := sequence * 0x9E3779B97F4A7C15
	h = (h ^ h>>31) * 0xBF58476D1CE4E5B9
	if h >>= 32; h%20 == 0 {
		return 1 + int(h/20%3)
	}
	return 0
}

// backlog is messages of some keys. Those of the first keys fail now and then.
type backlog struct {
	messages, keys, failing int
	batches                 bool
}

// handle stores the messages, handles each for a millisecond, and returns after which time those
// of the keys that do not fail are done.
func (l backlog) handle(t *testing.T, b *bus.Bus) (took time.Duration) {
	t.Helper()
	name := fmt.Sprintf("S%d", l.failing)
	st := declare(t, b, bus.StreamConfig{Name: name, Subjects: []string{name + ".*"}})
	for i := range l.messages {
		must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("%s.%d", name, i%l.keys)), i)))
	}
	var got keyLog
	begun, left := time.Now(), l.messages/l.keys*(l.keys-l.failing)
	one := func(_ context.Context, m *bus.Msg[int]) error {
		got.begin(t, m.Subject)
		time.Sleep(time.Millisecond)
		fails := m.Data%l.keys < l.failing
		failed := fails && m.Attempt <= failuresOf(m.Sequence)
		got.end(m.Subject, m.Sequence, !failed)
		if failed {
			return errNo
		}
		got.mu.Lock()
		defer got.mu.Unlock()
		if !fails {
			if left--; left == 0 {
				took = time.Since(begun)
			}
		}
		return nil
	}
	opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows), bus.Concurrency(8)}
	var c *bus.Consumer
	if subject := bus.Subject[int](name + ".*"); l.batches {
		c = consumeBatch(t, st, "c", subject, untilOneFails(one), append(opts, bus.BatchSize(10))...)
	} else {
		c = consume(t, st, "c", subject, one, opts...)
	}
	for passed := 0; passed < 300 && got.distinct() < l.messages; passed++ {
		pass(time.Second)
	}
	must(t, c.Drain(t.Context()))
	got.mustBeOnce(t, l.messages)
	got.mustBeInOrder(t)
	if dead := deadOf(t, st, bus.DeadFilter{}); len(dead) > 0 {
		t.Errorf("%d dead letters", len(dead))
	}
	return took
}

// untilOneFails handles the messages of a batch one after another, those of a key until one fails.
func untilOneFails(handle bus.Handler[int]) bus.BatchHandler[int] {
	return func(ctx context.Context, ms []*bus.Msg[int]) error {
		var failed bus.BatchError
		behind := make(map[string]bool)
		for i, m := range ms {
			if !behind[m.Subject] {
				err := handle(ctx, m)
				failed.Add(i, err)
				behind[m.Subject] = err != nil
			}
		}
		return failed.Err()
	}
}

// Keys that do not fail are handled as fast beside those that do as if none did, however many fail
// and however few messages of each are here.
func TestFailingKeysDoNotSlowOthers(t *testing.T) {
	t.Parallel()
	n := underRace(2000, 4000)
	for _, l := range []backlog{{n, 20, 19, false}, {n, 100, 99, false}, {n, 20, 10, true}} {
		t.Run(fmt.Sprint(l), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				none := l
				none.failing = 0
				without, with := none.handle(t, b), l.handle(t, b)
				t.Logf("without failures %v, with failures %v", without, with)
				if with > without*12/10 {
					t.Errorf("the others took %v, without failures %v", with, without)
				}
			}, bus.WithLogger(silent()))
		})
	}
}

// failShort handles messages of some keys, 5 % of which fail for a few milliseconds, one to three times
// each, and returns how many followers were stored. New messages come as others are done, so that some
// hundreds wait in the stream all the time.
func failShort(t *testing.T, b *bus.Bus, keys, messages int) (followers int) {
	t.Helper()
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	next := 0
	publish := func(ctx context.Context) {
		if next < messages {
			must(t, second(bus.PublishTo(ctx, st, bus.Subject[int](fmt.Sprintf("s.%d", next%keys)), next)))
			next++
		}
	}
	for range 1300 {
		publish(t.Context())
	}
	var got keyLog
	turn := make(chan struct{}, 1)
	c := consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
		got.begin(t, m.Subject)
		failed := m.Attempt <= failuresOf(m.Sequence)
		got.end(m.Subject, m.Sequence, !failed)
		if failed {
			return errNo
		}
		turn <- struct{}{}
		publish(ctx)
		<-turn
		return nil
	}, bus.KeyBySubject(), bus.Concurrency(8), bus.Retry(bus.RetryPolicy{MaxAttempts: 25, MinBackoff: time.Millisecond, MaxBackoff: 8 * time.Millisecond}))
	for passed := 0; passed < 300 && got.distinct() < messages; passed++ {
		pass(time.Second)
	}
	must(t, c.Drain(t.Context()))
	got.mustBeOnce(t, messages)
	got.mustBeInOrder(t)
	return int(streamInfo(t, b, "S-retry").State.LastSeq) / 2 // each is stored again when it comes back
}

// Few messages are stored as followers where those before them fail for a short time: to wait costs less.
func TestShortFailuresStoreFewFollowers(t *testing.T) {
	t.Parallel()
	for keys, most := range map[int]int{1: 3000, 20: 1000} {
		t.Run(fmt.Sprint(keys), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				const messages = 12_000
				followers := failShort(t, b, keys, messages)
				t.Logf("of %d messages %d were stored as followers", messages, followers)
				if followers > most {
					t.Errorf("of %d messages %d were stored as followers, want %d at most", messages, followers, most)
				}
			}, bus.WithLogger(silent()))
		})
	}
}
