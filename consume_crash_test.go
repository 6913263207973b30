package bus_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// inBothWays are a consumer with keys and one without.
var inBothWays = map[string][]bus.ConsumeOption{
	"with keys":    {bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyGoesOn)},
	"without keys": nil,
}

// dieOf is the child: one of its messages ends the process.
func dieOf(t *testing.T, dir string, opts []bus.ConsumeOption) {
	const culprit = 30
	died := make(chan uint64, 100)
	b := openOn(t, dir, bus.WithSync(bus.SyncEvery(time.Second)), bus.WithEvents(func(e event.Event) {
		if e.Kind == event.DeadLetter {
			died <- e.Sequence
		}
	}))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	if streamInfo(t, b, "S").State.Msgs == 0 {
		storeKeys(t, st, 10, 100)
	}
	say("begun")
	began := time.Now()
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Sequence == culprit {
			spin(200*time.Millisecond - time.Since(began)) // so that the server has written down what it sent, see ADR 16
			self, err := os.FindProcess(os.Getpid())
			must(t, err)
			must(t, self.Kill())
			select {}
		}
		spin(2 * time.Millisecond)
		say("done %d", m.Sequence)
		return nil
	}, append(opts, bus.Concurrency(8), bus.AckWait(time.Second), bus.Retry(bus.RetryPolicy{MaxCrashes: 2}))...)
	say("dead %d", <-died)
	awaitAll(t, b, "S", "c")
	for streamInfo(t, b, "S-retry").State.Msgs > 0 { // nobody waits for the removal of marks
		receiveTick(t)
	}
	say("over")
	select {}
}

// A message that ends each process that handles it becomes a dead letter. Those that
// such a process had fetched, or handled beside it, do not.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	for name, opts := range inBothWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if dir := victimDir(t); dir != "" {
				dieOf(t, dir, opts)
			}
			dir := t.TempDir()
			done := make(map[uint64]int)
			var dead []uint64
			lives, over := 0, false
			for ; !over && lives < 10; lives++ {
				startVictim(t, dir).kill(t, func(line string) bool {
					var seq uint64
					if _, err := fmt.Sscanf(line, "done %d", &seq); err == nil {
						done[seq]++
					}
					if _, err := fmt.Sscanf(line, "dead %d", &seq); err == nil {
						dead = append(dead, seq)
					}
					over = over || line == "over"
					return !over
				})
			}
			if !slices.Equal(dead, []uint64{30}) || lives < 4 || lives > 7 {
				t.Errorf("in %d lives these became dead letters: %v", lives, dead)
			}
			again := 0
			for seq := uint64(1); seq <= 100; seq++ {
				if (done[seq] == 0) != (seq == 30) {
					t.Errorf("message %d was handled %d times", seq, done[seq])
				}
				again += max(done[seq]-1, 0)
			}
			b := openOn(t, dir)
			st, err := b.LookupStream(t.Context(), "S")
			must(t, err)
			l := onlyDeadLetter(t, st)
			if l.Cause != bus.CauseCrashLoop || l.Attempt != 0 || !strings.Contains(l.Error, "died 2 times") {
				t.Errorf("the dead letter is %+v", l)
			}
			if left := streamInfo(t, b, "S-retry").State.Msgs; left > 0 {
				t.Errorf("%d marks are left", left)
			}
			must(t, b.Close())
			t.Logf("%d lives, %d times again", lives, again)
		})
	}
}

// handleKeysUntilKilled is the child: it stores and handles messages of keys.
func handleKeysUntilKilled(t *testing.T, dir string) {
	b := openOn(t, dir, bus.WithSync(bus.SyncEvery(time.Second)))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	fail := failAtRandom(0.05)
	room := make(chan struct{}, 300)
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
		if fail() {
			return errNo
		}
		say("done %s %d", m.Subject, m.Sequence)
		select {
		case <-room:
		default: // of another life
		}
		return nil
	}, bus.KeyBySubject(), bus.Concurrency(8), bus.AckWait(time.Second), always)
	say("begun")
	for n := 0; ; n++ {
		room <- struct{}{}
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.k%d", rand.IntN(20))), n)
		must(t, err)
	}
}

// Of each key the messages are handled in order, whoever of those that are killed
// again and again handles them; and none is lost.
func TestKilledConsumersKeepTheOrder(t *testing.T) {
	t.Parallel()
	if dir := victimDir(t); dir != "" {
		handleKeysUntilKilled(t, dir)
	}
	mustKeepTheOrderWhenKilled(t, func(st *bus.Stream, got *keyLog) {
		consume(t, st, "c", "s.*", got.failing(t, 0, 0), bus.KeyBySubject(), bus.Concurrency(8), bus.AckWait(time.Second))
	})
}

// mustKeepTheOrderWhenKilled kills children of the test again and again that store messages of
// keys and handle them. rest begins to handle what is left.
func mustKeepTheOrderWhenKilled(t *testing.T, rest func(st *bus.Stream, got *keyLog)) {
	t.Helper()
	dir := t.TempDir()
	var got keyLog
	got.keys = make(map[string][]uint64)
	for range underRace(4, 8) {
		enough, count := 1+rand.IntN(underRace(500, 1000)), 0
		startVictim(t, dir).kill(t, func(line string) bool {
			var key string
			var seq uint64
			if _, err := fmt.Sscanf(line, "done %s %d", &key, &seq); err == nil {
				got.end(key, seq, true)
				count++
			}
			return count < enough
		})
	}
	b := openOn(t, dir)
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	rest(st, &got)
	awaitAll(t, b, "S", "c")
	stored := streamInfo(t, b, "S").State.LastSeq
	if dead := deadLetters(t, st, bus.DeadFilter{}); len(dead) != 0 || uint64(got.distinct()) != stored {
		t.Errorf("of %d messages %d were handled, %d are dead letters", stored, got.distinct(), len(dead))
	}
	must(t, b.Close())
	got.mustBeInOrder(t)
	t.Logf("%d messages, %d times again", stored, len(got.order)-got.distinct())
}

// A message with a key that failed goes on counting its attempts after a stop, and
// stays before those behind it.
func TestAttemptsOfKeysSurviveAStop(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 3)
		var attempts []int
		var got ledger
		for range 5 {
			con := consume(t, st, "c", "S", func(ctx context.Context, m *bus.Msg[int]) error {
				if m.Sequence == 1 {
					attempts = append(attempts, m.Attempt)
					return bus.RetryAfter(time.Hour, errNo)
				}
				return got.handle(ctx, m)
			}, bus.KeyBySubject(), bus.Retry(bus.RetryPolicy{MaxAttempts: 4}))
			pass(time.Second)
			must(t, con.Drain(t.Context()))
		}
		if !slices.Equal(attempts, []int{1, 2, 3, 4}) || !slices.Equal(got.sequences(), []uint64{2, 3}) {
			t.Errorf("attempts were %v, handled were %v", attempts, got.sequences())
		}
		if l := onlyDeadLetter(t, st); l.Sequence != 1 || l.Attempt != 4 {
			t.Errorf("the dead letter is %+v", l)
		}
	})
}

// One that may have ended a process waits for a slow handler; the others do not.
func TestASuspectStopsNobodyForLong(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		var got ledger
		h := func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Data == 1 {
				time.Sleep(time.Hour)
			}
			return got.handle(ctx, m)
		}
		con := consume(t, st, "c", "S", h, bus.Concurrency(10))
		must(t, con.Drain(t.Context()))
		storeRange(t, st, "S", 0, 1)
		fetchAndDie(t, b, "S", "c", 1)
		pass(time.Second)
		con = consume(t, st, "c", "S", h, bus.Concurrency(10))
		storeRange(t, st, "S", 1, 2)
		pass(time.Minute) // the first comes again
		storeRange(t, st, "S", 2, 22)
		pass(20 * time.Second)
		if got.distinct() != 20 {
			t.Errorf("handled beside a slow one: %v", got.sequences())
		}
		pass(time.Hour)
		if got.distinct() != 22 {
			t.Errorf("handled in the end: %v", got.sequences())
		}
		must(t, con.Drain(t.Context()))
	}, bus.WithLogger(silent()))
}

// What was given back when a consumer stopped is no suspect of having ended it: it is
// handled side by side with the rest.
func TestWhatWasGivenBackIsNoSuspect(t *testing.T) {
	t.Parallel()
	for name, opts := range inBothWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				storeKeys(t, st, 40, 40)
				var got ledger
				var running, most, again atomic.Int64
				start := func() *bus.Consumer {
					return consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
						most.Store(max(most.Load(), running.Add(1)))
						if m.Deliveries > 1 {
							again.Add(1)
						}
						time.Sleep(2 * time.Second)
						running.Add(-1)
						return got.handle(ctx, m)
					}, append(opts, bus.Concurrency(8))...)
				}
				con := start()
				pass(time.Second)
				must(t, con.Drain(t.Context()))
				most.Store(0)
				start()
				pass(9 * time.Second) // 32 are left, 8 at a time
				got.mustBeOnce(t, 40)
				if most.Load() != 8 || again.Load() < 8 {
					t.Errorf("%d ran at once, %d had been given back", most.Load(), again.Load())
				}
			})
		})
	}
}

// What a stop gives back, or a drain without any time, counts its attempts, and is no
// suspect either.
func TestGivenBackWithoutTime(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*bus.Consumer){
		"Stop": (*bus.Consumer).Stop,
		"Drain": func(con *bus.Consumer) {
			ctx, cancel := context.WithDeadline(context.Background(), time.Now())
			defer cancel()
			_ = con.Drain(ctx) // it leaves something behind
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				storeRange(t, st, "S", 0, 9)
				var attempts []int
				var running, most atomic.Int64
				start := func(concurrency int) *bus.Consumer {
					return consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
						if m.Sequence == 1 {
							attempts = append(attempts, m.Attempt)
							return bus.RetryAfter(10*time.Second, errNo)
						}
						most.Store(max(most.Load(), running.Add(1)))
						defer running.Add(-1)
						time.Sleep(time.Second)
						return nil
					}, bus.Concurrency(concurrency), bus.Retry(bus.RetryPolicy{MaxAttempts: 3}))
				}
				for _, concurrency := range []int{1, 8, 8} {
					con := start(concurrency)
					pass(500 * time.Millisecond)
					end(con)
					pass(time.Minute)
				}
				if !slices.Equal(attempts, []int{1, 2, 3}) {
					t.Errorf("the attempts were %v", attempts)
				}
				onlyDeadLetter(t, st)
				if most.Load() < 7 {
					t.Errorf("at most %d ran at once", most.Load())
				}
			})
		})
	}
}

// A connection that breaks again and again breaks no order, and loses nothing.
func TestKeysOverLostConnections(t *testing.T) {
	t.Parallel()
	b, home, r, _ := remote(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Storage: bus.MemoryStorage})
	there, err := home.LookupStream(t.Context(), "S")
	must(t, err)
	var got keyLog
	consume(t, st, "c", "s.*", got.failing(t, 0.05, time.Millisecond), bus.KeyBySubject(), bus.Concurrency(4), always, bus.AckWait(time.Second))
	for n := range 20 {
		storeKeys(t, there, 7, 70)
		eventually(t, "something is handled", func() bool { return got.distinct() > 50*n })
		r.cut(false)
	}
	awaitAll(t, home, "S", "c")
	if got.distinct() != 1400 {
		t.Errorf("%d messages were handled", got.distinct())
	}
	got.mustBeInOrder(t)
}
