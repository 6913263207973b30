package bus_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
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

func TestKeysKeepTheirOrder(t *testing.T) {
	t.Parallel()
	n := underRace(700, 1500)
	for name, c := range map[string]struct {
		share float64
		key   bus.ConsumeOption
	}{
		"by subject":           {0, bus.KeyBySubject()},
		"by subject, failures": {0.1, bus.KeyBySubject()},
		"by token":             {0.1, bus.KeyByToken(2)},
		"by function":          {0.1, bus.KeyBy(func(m *bus.Msg[int]) string { return fmt.Sprint(m.Data % 20) })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				storeKeys(t, st, 20, n)
				var got keyLog
				consume(t, st, "c", "s.*", got.failing(t, c.share, time.Millisecond), c.key, bus.Concurrency(8), always)
				pass(10 * time.Minute)
				got.mustBeOnce(t, n)
				got.mustBeInOrder(t)
				mustBeDone(t, b, "S", "c")
				if got.most < 6 {
					t.Errorf("at most %d keys were handled at once", got.most)
				}
			})
		})
	}
}

// A message that waits for its next attempt holds up its key, and no other.
func TestAFailingMessageHoldsUpItsKeyOnly(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeKeys(t, st, 3, 300)
		var got keyLog
		fails := true
		consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
			if m.Sequence == 1 && fails {
				return bus.RetryAfter(time.Hour, errNo)
			}
			got.begin(t, m.Subject)
			got.end(m.Subject, m.Sequence, true)
			return nil
		}, bus.KeyBySubject())
		pass(time.Minute)
		if n := got.distinct(); n != 200 {
			t.Errorf("%d messages of the other keys were handled, want 200", n)
		}
		fails = false
		pass(time.Hour)
		got.mustBeOnce(t, 300)
		got.mustBeInOrder(t)
		mustBeDone(t, b, "S", "c")
	})
}

// What waits in lanes when a consumer stops comes again in order.
func TestKeysAfterADrain(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		n, rounds := underRace(1000, 2000), underRace(10, 20)
		storeKeys(t, st, 5, n)
		var got keyLog
		for range rounds {
			con := consume(t, st, "c", "s.*", got.failing(t, 0.1, 5*time.Millisecond), bus.KeyBySubject(), bus.Concurrency(4), always)
			time.Sleep(50 * time.Millisecond)
			must(t, con.Drain(t.Context()))
		}
		consume(t, st, "c", "s.*", got.failing(t, 0.1, 5*time.Millisecond), bus.KeyBySubject(), bus.Concurrency(4), always)
		pass(10 * time.Minute)
		got.mustBeOnce(t, n)
		got.mustBeInOrder(t)
	})
}

func TestMessagesWithoutAKeyGoSideBySide(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		for n := range 8 {
			var opts []bus.StoreOption
			if n%2 == 0 {
				opts = append(opts, bus.WithHeader("Tenant", "a"))
			}
			_, err := bus.PublishTo(t.Context(), st, "S", n, opts...)
			must(t, err)
		}
		var mu sync.Mutex
		var begun []int
		release := make(chan struct{})
		consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
			mu.Lock()
			begun = append(begun, m.Data)
			mu.Unlock()
			<-release
			return nil
		}, bus.KeyByHeader("tenant"), bus.Concurrency(8))
		pass(time.Second)
		mu.Lock()
		slices.Sort(begun)
		if !slices.Equal(begun, []int{0, 1, 3, 5, 7}) {
			t.Errorf("begun are %v", begun)
		}
		mu.Unlock()
		close(release)
		pass(time.Second)
		mustBeDone(t, b, "S", "c")
	})
}

// A message that has no key because it is malformed, or because the function
// panicked, is a dead letter. No handler sees it.
func TestMessagesWhoseKeyFails(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 2)
		_, err := bus.PublishTo(t.Context(), st, "S", "text")
		must(t, err)
		var got ledger
		consume(t, st, "c", "S", got.handle, bus.KeyBy(func(m *bus.Msg[int]) string {
			if m.Data == 0 {
				panic("no")
			}
			return "a"
		}))
		pass(time.Second)
		if !slices.Equal(got.sequences(), []uint64{2}) {
			t.Errorf("handled were %v", got.sequences())
		}
		dead := deadLetters(t, st, bus.DeadFilter{})
		if len(dead) != 2 || dead[0].Cause != bus.CausePanic || dead[0].Sequence != 1 || dead[1].Cause != bus.CauseMalformed ||
			dead[0].Attempt != 0 || dead[1].Attempt != 0 {
			t.Errorf("dead letters: %+v", dead)
		}
		mustBeDone(t, b, "S", "c")
	})
}

func TestWrongKeys(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	byText := bus.KeyBy(func(m *bus.Msg[string]) string { return m.Data })
	for name, c := range map[string]struct {
		subject bus.Subject[int]
		options []bus.ConsumeOption
		words   []string
	}{
		"token 0":         {"s.*", []bus.ConsumeOption{bus.KeyByToken(0)}, []string{"KeyByToken", "0", "from 1"}},
		"token -1":        {"s.*", []bus.ConsumeOption{bus.KeyByToken(-1)}, []string{"KeyByToken", "-1", "from 1"}},
		"token beyond":    {"s.*", []bus.ConsumeOption{bus.KeyByToken(3)}, []string{"KeyByToken", "3", `"s.*"`}},
		"header":          {"s.*", []bus.ConsumeOption{bus.KeyByHeader("a b")}, []string{"KeyByHeader", "a b"}},
		"header empty":    {"s.*", []bus.ConsumeOption{bus.KeyByHeader("")}, []string{"KeyByHeader", "empty"}},
		"function nil":    {"s.*", []bus.ConsumeOption{bus.KeyBy[int](nil)}, []string{"KeyBy", "nil"}},
		"function's type": {"s.*", []bus.ConsumeOption{byText}, []string{"KeyBy", "string", "int"}},
		"two":             {"s.*", []bus.ConsumeOption{bus.KeyBySubject(), bus.KeyByToken(1)}, []string{"KeyByToken", "KeyBySubject sets the key already"}},
		"two of the same": {"s.*", []bus.ConsumeOption{bus.KeyBySubject(), bus.KeyBySubject()}, []string{"KeyBySubject", "KeyBySubject sets the key already"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := bus.Consume(t.Context(), st, "c", c.subject, giveUp, c.options...)
			asError[*bus.OptionError](t, err, c.words...)
		})
	}
	consume(t, st, "c", "s.>", giveUp, bus.KeyByToken(3)) // there may be such subjects
}

// A second puller makes gaps: messages that it gets are with nobody until the server
// gives them back, and until then nothing that comes after them may begin.
func TestKeysWhenSomebodyElseTakesMessages(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		var got keyLog
		consume(t, st, "c", "s.*", got.failing(t, 0.05, 2*time.Millisecond), bus.KeyBySubject(), bus.Concurrency(4), always, bus.AckWait(5*time.Second))
		other, err := b.JetStream().Consumer(t.Context(), "S", "c")
		must(t, err)
		stop := make(chan struct{})
		var taken int
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rand.IntN(2000)) * time.Millisecond):
				}
				batch, err := other.Fetch(1+rand.IntN(5), jetstream.FetchMaxWait(time.Second))
				must(t, err)
				for range batch.Messages() { // and never a word of them
					taken++
				}
			}
		})
		for range 100 {
			storeKeys(t, st, 7, 30)
			time.Sleep(200 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		pass(10 * time.Minute)
		got.mustBeInOrder(t)
		if n := got.distinct(); n != 3000 || taken == 0 {
			t.Errorf("%d messages were handled, %d taken", n, taken)
		}
		synctest.Wait()
		t.Logf("%d were taken by the other", taken)
	})
}

// What somebody else puts among the retries is removed, and nothing waits for it.
func TestKeysWithAForeignRetry(t *testing.T) {
	t.Parallel()
	var told atomic.Int64
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		con := consume(t, st, "c", "s.*", giveUp, bus.KeyBySubject())
		must(t, con.Drain(t.Context()))
		_, err := b.JetStream().Publish(t.Context(), "$OMNIBUS.retry.S.c.x.1", []byte("x"))
		must(t, err)
		var got keyLog
		consume(t, st, "c", "s.*", got.failing(t, 0, 0), bus.KeyBySubject())
		storeKeys(t, st, 3, 30)
		pass(time.Minute)
		got.mustBeOnce(t, 30)
		mustBeAcknowledged(t, b, "S-retry", "c")
		if told.Load() != 1 {
			t.Errorf("it was told %d times", told.Load())
		}
		healthy(t, b)
	}, bus.WithLogger(silent()), bus.WithEvents(func(e event.Event) {
		if e.Kind == event.OddRecord {
			told.Add(1)
		}
	}))
}

// While messages wait for what somebody else was given, that is said, and when they go
// on it is not any more.
func TestKeysThatWaitForOthersSaySo(t *testing.T) {
	t.Parallel()
	events := make(chan event.Event, 10)
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		con := consume(t, st, "c", "s.*", giveUp, bus.KeyBySubject())
		must(t, con.Drain(t.Context()))
		storeKeys(t, st, 3, 600)
		fetchAndDie(t, b, "S", "c", 500)
		var got keyLog
		consume(t, st, "c", "s.*", got.failing(t, 0, 0), bus.KeyBySubject())
		pass(10 * time.Second)
		if got.distinct() != 0 {
			t.Errorf("%d messages were handled", got.distinct())
		}
		unwell(t, b.Health(t.Context()), health.Degraded, "consumer", "waits for 500 messages", "30s")
		pass(30 * time.Second)
		healthy(t, b)
		got.mustBeOnce(t, 600)
		got.mustBeInOrder(t)
		e := receive(t, events)
		hasText(t, e.Err, "500 messages")
		nothing(t, events)
	}, slack(), bus.WithEvents(func(e event.Event) {
		if e.Kind == event.ConsumerStalled {
			events <- e
		}
	}))
}

// A server that comes back with what was on its disk breaks no order, and loses nothing.
func TestKeysOverRestartsOfTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	home := openOn(t, dir, anyPort())
	r := newRelay(t, home.ClientURL())
	b, err := bus.Connect(t.Context(), r.url(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	var got keyLog
	consume(t, st, "c", "s.*", got.failing(t, 0.05, time.Millisecond), bus.KeyBySubject(), bus.Concurrency(4), always, bus.AckWait(2*time.Second))
	rounds := underRace(3, 5)
	for n := range rounds {
		storeKeys(t, st, 7, 200)
		eventually(t, "something is handled", func() bool { return got.distinct() > 150*n })
		r.cut(true)
		must(t, home.Close())
		home = openOn(t, dir, anyPort())
		r.redirect(home.ClientURL())
		eventually(t, "it is connected again", b.Conn().IsConnected)
	}
	awaitAll(t, home, "S", "c")
	if got.distinct() != 200*rounds {
		t.Errorf("%d messages were handled", got.distinct())
	}
	got.mustBeInOrder(t)
	must(t, b.Close())
	must(t, home.Close())
}
