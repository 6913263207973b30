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

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// keyBatches notes what batches with keys do, and whether two that have the same key ever are
// handled at once.
type keyBatches struct {
	keyLog

	fails func(m *bus.Msg[int]) error // the outcome of a message
	took  time.Duration
	came  [][]uint64
}

// handle is a bus.BatchHandler. It says of what is behind a failed message that it is done.
func (l *keyBatches) handle(t testing.TB) bus.BatchHandler[int] {
	return func(_ context.Context, ms []*bus.Msg[int]) error {
		seqs, open := make([]uint64, len(ms)), make(map[string]bool)
		for i, m := range ms {
			if seqs[i] = m.Sequence; !open[m.Subject] {
				open[m.Subject] = true
				l.begin(t, m.Subject)
			}
		}
		if !slices.IsSorted(seqs) {
			t.Errorf("the batch %v is not in the order of the stream", seqs)
		}
		l.mu.Lock()
		l.came = append(l.came, seqs)
		l.mu.Unlock()
		time.Sleep(l.took)
		var failed bus.BatchError
		behind := make(map[string]bool)
		for i, m := range ms {
			if behind[m.Subject] {
				continue
			}
			err := l.fails(m)
			failed.Add(i, err)
			behind[m.Subject] = err != nil
			l.end(m.Subject, m.Sequence, err == nil)
		}
		return failed.Err()
	}
}

// batches is what came together so far.
func (l *keyBatches) batches() [][]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.came)
}

func never(*bus.Msg[int]) error { return nil }

// A batch has several messages of a key, in order. Batches that are handled at once share the
// keys, and have none in common.
func TestKeysInBatches(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ keys, least int }{{1, 1}, {4, 2}, {20, 4}, {1000, 4}} {
		t.Run(fmt.Sprint(tc.keys), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				const n = 2000
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				storeKeys(t, st, tc.keys, n)
				var running, most atomic.Int64
				got := keyBatches{fails: never, took: time.Second}
				handle := got.handle(t)
				con := consumeBatch(t, st, "c", "s.*", func(ctx context.Context, ms []*bus.Msg[int]) error {
					most.Store(max(most.Load(), running.Add(1)))
					defer running.Add(-1)
					return handle(ctx, ms)
				}, bus.KeyBySubject(), bus.Concurrency(4), bus.BatchSize(50))
				pass(5 * time.Minute)
				got.mustBeOnce(t, n)
				got.mustBeInOrder(t)
				if n := int(most.Load()); n < tc.least || n > min(tc.keys, 4) {
					t.Errorf("%d batches ran at once, want %d", n, tc.least)
				}
				if batches := len(got.batches()); batches > 2*n/50 {
					t.Errorf("%d messages came in %d batches", n, batches)
				}
				must(t, con.Drain(t.Context()))
				mustBeDone(t, b, "S", "c")
			})
		})
	}
}

// What is behind a failed message of its key comes again after it, whatever the handler says of
// it, and no attempt is counted. Meanwhile other keys go on. A message that is tried again is the
// only one of its key.
func TestKeysInBatchesAfterAFailure(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeKeys(t, st, 2, 10) // k0: 1 3 5 7 9, k1: 2 4 6 8 10
		attempts := make(map[uint64][]int)
		got := keyBatches{fails: func(m *bus.Msg[int]) error {
			attempts[m.Sequence] = append(attempts[m.Sequence], m.Attempt)
			if m.Sequence == 3 && m.Attempt <= 2 {
				return errNo
			}
			return nil
		}}
		con := consumeBatch(t, st, "c", "s.*", got.handle(t), bus.KeyBySubject(), bus.BatchWait(time.Second),
			bus.Retry(bus.RetryPolicy{MinBackoff: time.Minute, MaxBackoff: time.Minute}))
		pass(2 * time.Second)
		storeKeys(t, st, 2, 2) // 11 12, while 3 waits
		pass(10 * time.Minute)
		want := [][]uint64{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, {12}, {3}, {3}, {5, 7, 9, 11}}
		if all := got.batches(); !slices.EqualFunc(all, want, slices.Equal) {
			t.Errorf("the batches are %v, want %v", all, want)
		}
		if !slices.Equal(attempts[3], []int{1, 2, 3}) || !slices.Equal(attempts[5], []int{1}) {
			t.Errorf("the attempts are %v", attempts)
		}
		got.mustBeOnce(t, 12)
		got.mustBeInOrder(t)
		must(t, con.Drain(t.Context()))
		mustBeDone(t, b, "S", "c")
	})
}

// With an error for the whole batch, and with a panic, the first message of each key has failed.
func TestKeysInBatchesThatFailAsAWhole(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{"an error": func() error { return errNo }, "a panic": func() error { panic("no") }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				storeKeys(t, st, 2, 10)
				var calls atomic.Int64
				got := keyBatches{fails: never}
				handle := got.handle(t)
				con := consumeBatch(t, st, "c", "s.*", func(ctx context.Context, ms []*bus.Msg[int]) error {
					if calls.Add(1) == 1 {
						return fail()
					}
					return handle(ctx, ms)
				}, bus.KeyBySubject())
				pass(time.Minute)
				var retried []uint64
				for len(events) > 0 {
					if e := <-events; e.Kind == event.Retry {
						retried = append(retried, e.Sequence)
					}
				}
				if !slices.Equal(retried, []uint64{1, 2}) {
					t.Errorf("tried again are %v", retried)
				}
				got.mustBeOnce(t, 10)
				got.mustBeInOrder(t)
				must(t, con.Drain(t.Context()))
				mustBeDone(t, b, "S", "c")
			}, record, bus.WithLogger(silent()))
		})
	}
}

// A dead letter in the middle of a batch: what is behind it, and was skipped by the handler, is
// handled next, or follows it.
func TestKeysInBatchesAfterADeadLetter(t *testing.T) {
	t.Parallel()
	for rule, want := range map[bus.KeyRule][]uint64{bus.KeyGoesOn: {3}, bus.KeyFollows: {3, 5, 7, 9}} {
		t.Run(fmt.Sprint(rule), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				storeKeys(t, st, 2, 10)
				var bad atomic.Bool
				bad.Store(true)
				got := keyLog{keys: make(map[string][]uint64)}
				con := consumeBatch(t, st, "c", "s.*", func(_ context.Context, ms []*bus.Msg[int]) error {
					var failed bus.BatchError
					behind := make(map[string]bool)
					for i, m := range ms {
						switch {
						case behind[m.Subject]:
						case m.Sequence == 3 && bad.Load():
							failed.Add(i, bus.Permanent(errNo))
							behind[m.Subject] = true
						default:
							got.end(m.Subject, m.Sequence, true)
						}
					}
					return failed.Err()
				}, bus.KeyBySubject(), bus.AfterDeadLetter(rule))
				pass(time.Minute)
				if dead := deadOf(t, st, bus.DeadFilter{}); !slices.Equal(dead, want) {
					t.Errorf("dead letters are %v, want %v", dead, want)
				}
				bad.Store(false)
				must(t, second(st.Redrive(t.Context(), bus.DeadFilter{})))
				pass(time.Minute)
				if k0 := got.keys["s.k0"]; rule == bus.KeyFollows && !slices.Equal(k0[len(k0)-4:], want) {
					t.Errorf("redriven the key was handled as %v", k0)
				}
				if got.distinct() != 10 {
					t.Errorf("%d messages were handled", got.distinct())
				}
				must(t, con.Drain(t.Context()))
				mustBeDone(t, b, "S", "c")
			}, bus.WithLogger(silent()))
		})
	}
}

// A message without a key, and one whose key cannot be told, hold up nothing in a batch.
func TestKeysInBatchesThatAreMissing(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 30)
		var calls atomic.Int64
		var got ledger
		consumeBatch(t, st, "c", "S", func(_ context.Context, ms []*bus.Msg[int]) error {
			var failed bus.BatchError
			calls.Add(int64(len(ms)))
			for i, m := range ms {
				if m.Data%3 == 0 && m.Attempt == 1 {
					failed.Add(i, errNo)
				} else {
					got.note(m.Sequence)
				}
			}
			return failed.Err()
		}, bus.KeyBy(func(m *bus.Msg[int]) string {
			if m.Data == 13 {
				panic("no key")
			}
			return ""
		}))
		pass(time.Minute)
		if calls.Load() != 39 || got.distinct() != 29 {
			t.Errorf("%d messages came, %d were handled", calls.Load(), got.distinct())
		}
		if dead := deadOf(t, st, bus.DeadFilter{}); !slices.Equal(dead, []uint64{14}) {
			t.Errorf("dead letters are %v", dead)
		}
	}, bus.WithLogger(silent()))
}

// A backlog with few or many keys, in which messages fail once to three times, with a restart:
// nothing becomes a dead letter, each key keeps its order, and nothing is reported as stuck.
func TestKeysInBatchesUnderABacklog(t *testing.T) {
	t.Parallel()
	many := underRace(2000, 5000)
	for _, keys := range []int{1, 20, 100, 1000} {
		t.Run(fmt.Sprint(keys), func(t *testing.T) {
			t.Parallel()
			record, events := stuckEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				storeKeys(t, st, keys, many)
				got := keyBatches{took: time.Millisecond, fails: func(m *bus.Msg[int]) error {
					if m.Sequence%20 == 0 && m.Attempt <= 1+int(m.Sequence/20%3) {
						return errNo
					}
					return nil
				}}
				start := func() *bus.Consumer {
					return consumeBatch(t, st, "c", "s.*", got.handle(t), bus.KeyBySubject(), bus.AfterDeadLetter(bus.KeyFollows), bus.Concurrency(8))
				}
				con := start()
				pass(time.Second)
				must(t, con.Drain(t.Context()))
				con = start()
				for passed := 0; passed < 600 && got.distinct() < many; passed++ {
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

// While one key fails for minutes, all others are handled.
func TestAStuckKeyInBatches(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		const keys, many = 20, 4000
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeKeys(t, st, keys, many)
		var fails atomic.Bool
		fails.Store(true)
		got := keyBatches{fails: func(m *bus.Msg[int]) error {
			if m.Sequence == 1 && fails.Load() {
				return errNo
			}
			return nil
		}}
		consumeBatch(t, st, "c", "s.*", got.handle(t), bus.KeyBySubject(), bus.Concurrency(4), bus.BatchSize(50), always)
		pass(time.Minute)
		if n := got.distinct(); n != many-many/keys {
			t.Errorf("%d messages of other keys were handled, want %d", n, many-many/keys)
		}
		fails.Store(false)
		pass(5 * time.Minute)
		got.mustBeOnce(t, many)
		got.mustBeInOrder(t)
		mustBeDone(t, b, "S", "c")
	}, bus.WithLogger(silent()))
}

// What a drain returns is neither lost nor out of order, and keeps its attempts; also what
// is behind a message that fails while the drain waits for its batch.
func TestKeysInBatchesOverDrains(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		const many = 1000
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeKeys(t, st, 3, many)
		var mu sync.Mutex
		failures := make(map[uint64]int)
		got := keyBatches{took: 700 * time.Millisecond, fails: func(m *bus.Msg[int]) error {
			mu.Lock()
			defer mu.Unlock()
			if m.Attempt != failures[m.Sequence]+1 {
				t.Errorf("message %d: attempt %d after %d failures", m.Sequence, m.Attempt, failures[m.Sequence])
			}
			if m.Sequence%40 == 0 && failures[m.Sequence] < 2 {
				failures[m.Sequence]++
				return errNo
			}
			return nil
		}}
		for range 30 {
			con := consumeBatch(t, st, "c", "s.*", got.handle(t), bus.KeyBySubject(), bus.Concurrency(2), bus.BatchSize(30), always)
			pass(time.Duration(rand.Int64N(int64(3 * time.Second))))
			must(t, con.Drain(t.Context()))
		}
		consumeBatch(t, st, "c", "s.*", got.handle(t), bus.KeyBySubject(), bus.Concurrency(2), bus.BatchSize(30), always)
		pass(10 * time.Minute)
		got.mustBeOnce(t, many)
		got.mustBeInOrder(t)
		mustBeDone(t, b, "S", "c")
	})
}

// handleKeyBatchesUntilKilled is the child: it stores messages of 20 keys and handles them in
// batches. What it says of a message comes before its acknowledgement.
func handleKeyBatchesUntilKilled(t *testing.T, dir string) {
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	room := make(chan struct{}, 500)
	consumeBatch(t, st, "c", "s.*", func(_ context.Context, ms []*bus.Msg[int]) error {
		time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
		var failed bus.BatchError
		behind := make(map[string]bool)
		for i, m := range ms {
			switch {
			case behind[m.Subject]:
			case rand.IntN(20) == 0:
				failed.Add(i, errNo)
				behind[m.Subject] = true
			default:
				say("done %s %d", m.Subject, m.Sequence)
				select {
				case <-room:
				default: // of another life
				}
			}
		}
		return failed.Err()
	}, bus.KeyBySubject(), bus.Concurrency(3), bus.BatchSize(40), bus.BatchWait(5*time.Millisecond), bus.AckWait(time.Second), always)
	say("begun")
	for n := 0; ; n++ {
		room <- struct{}{}
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.k%d", rand.IntN(20))), n)
		must(t, err)
	}
}

// Of each key the messages are handled in order in batches too, whoever of those that are killed
// again and again handles them; and none is lost.
func TestKilledBatchesKeepTheOrder(t *testing.T) {
	t.Parallel()
	if dir := victimDir(t); dir != "" {
		handleKeyBatchesUntilKilled(t, dir)
	}
	mustKeepTheOrderWhenKilled(t, func(st *bus.Stream, got *keyLog) {
		rest := keyBatches{fails: never}
		consumeBatch(t, st, "c", "s.*", func(ctx context.Context, ms []*bus.Msg[int]) error {
			for _, m := range ms {
				got.end(m.Subject, m.Sequence, true)
			}
			return rest.handle(t)(ctx, ms)
		}, bus.KeyBySubject(), bus.Concurrency(3), bus.AckWait(time.Second))
	})
}

// Those that may have ended a process run one after the other and keep the order of their
// keys.
func TestKeysInBatchesOfSuspects(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		storeKeys(t, st, 3, 90)
		got := keyBatches{fails: never, took: time.Second}
		opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.BatchSize(10), bus.BatchWait(time.Hour), bus.Concurrency(2), bus.AckWait(2 * time.Second)}
		first := consumeBatch(t, st, "c", "s.*", got.handle(t), opts...)
		synctest.Wait()
		must(t, first.Drain(t.Context())) // it has made the durable
		pass(time.Second)
		fetchAndDie(t, b, "S", "c", 40)
		pass(5 * time.Second)
		consumeBatch(t, st, "c", "s.*", got.handle(t), append(opts, bus.BatchWait(time.Second))...)
		pass(10 * time.Minute)
		got.mustBeInOrder(t)
		if got.distinct() != 90 {
			t.Errorf("%d messages were handled", got.distinct())
		}
		mustBeDone(t, b, "S", "c")
	})
}

// Two buses share a durable with keys whose messages come in batches; the first one leaves, and
// the other one goes on. The AckWait is long: a bus that gets no processor for a part of it would be
// taken for dead, and its messages would be handled again.
func TestKeysInBatchesOnTwoBuses(t *testing.T) {
	t.Parallel()
	a, b, sa, sb := two(t)
	const keys, many = 5, 400
	storeKeys(t, sa, keys, many/2)
	got := keyBatches{took: time.Millisecond, fails: func(m *bus.Msg[int]) error {
		if m.Sequence%10 == 0 && m.Attempt == 1 {
			return errNo
		}
		return nil
	}}
	opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.Concurrency(2), bus.BatchSize(20), bus.BatchWait(time.Millisecond), bus.AckWait(30 * time.Second),
		bus.Retry(bus.RetryPolicy{MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond})} // all that fails has one key
	first := consumeBatch(t, sa, "d", "s.*", got.handle(t), opts...)
	eventually(t, "the first one is the owner", func() bool { return owns(a) })
	consumeBatch(t, sb, "d", "s.*", got.handle(t), opts...)
	eventually(t, "some are handled", func() bool { return got.distinct() > 100 })
	must(t, first.Drain(t.Context()))
	eventually(t, "the second one is the owner", func() bool { return owns(b) })
	storeKeys(t, sa, keys, many/2)
	eventually(t, "all are handled", func() bool { return got.distinct() >= many })
	awaitAll(t, a, "S", "d")
	got.mustBeOnce(t, many)
	got.mustBeInOrder(t)
}
