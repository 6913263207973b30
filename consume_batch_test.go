package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/middleware"
)

// batches notes what came together.
type batches struct {
	mu  sync.Mutex
	all [][]uint64
}

func (l *batches) note(ms []*bus.Msg[int]) {
	one := make([]uint64, len(ms))
	for i, m := range ms {
		one[i] = m.Sequence
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, one)
}

func (l *batches) list() [][]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// Batches are whole where there are messages, wait no longer than they may for more,
// and keep the order.
func TestConsumeBatch(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 250)
		var got batches
		con := consumeBatch(t, st, "d", "S", func(_ context.Context, ms []*bus.Msg[int]) error {
			got.note(ms)
			return nil
		})
		synctest.Wait()
		if all := got.list(); len(all) != 2 || !slices.Equal(slices.Concat(all...), upTo(200)) || len(all[0]) != 100 {
			t.Errorf("at first %v came", all)
		}
		pass(99 * time.Millisecond)
		if n := len(got.list()); n != 2 {
			t.Errorf("there are %d batches", n)
		}
		pass(time.Millisecond)
		if all := got.list(); len(all) != 3 || !slices.Equal(slices.Concat(all...), upTo(250)) {
			t.Errorf("then %v came", all)
		}
		if s := b.Stats(); s.Received != 250 || s.Handled != 250 {
			t.Errorf("the statistics are %+v", s)
		}
		must(t, con.Drain(t.Context()))
		mustBeDone(t, b, "S", "d")
	})
}

// Concurrency is how many batches run at once, and none has more messages than asked for.
func TestConsumeBatchConcurrency(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 1000)
		var running, most, largest atomic.Int64
		var got ledger
		con := consumeBatch(t, st, "d", "S", func(_ context.Context, ms []*bus.Msg[int]) error {
			most.Store(max(most.Load(), running.Add(1)))
			largest.Store(max(largest.Load(), int64(len(ms))))
			time.Sleep(time.Second) // in the bubble: virtual time
			running.Add(-1)
			for _, m := range ms {
				got.note(m.Sequence)
			}
			return nil
		}, bus.BatchSize(20), bus.BatchWait(0), bus.Concurrency(4))
		pass(500 * time.Millisecond)
		if s := b.Stats().Subscriptions[0]; s.InFlight > 80 || s.Longest.Subject != "S" || s.Longest.Duration != 500*time.Millisecond {
			t.Errorf("the statistics are %+v", s)
		}
		pass(10 * time.Minute)
		if most.Load() != 4 || largest.Load() > 20 {
			t.Errorf("%d batches ran at once, with up to %d messages", most.Load(), largest.Load())
		}
		got.mustBeOnce(t, 1000)
		must(t, con.Drain(t.Context()))
		mustBeDone(t, b, "S", "d")
	})
}

// Each message has its own outcome.
func TestConsumeBatchOutcomes(t *testing.T) {
	t.Parallel()
	const n = 10
	each := func(ms []*bus.Msg[int], outcome func(m *bus.Msg[int]) error) error {
		var failed bus.BatchError
		for i, m := range ms {
			failed.Add(i, outcome(m))
		}
		return failed.Err()
	}
	for _, tc := range []struct {
		name    string
		handle  bus.BatchHandler[int]
		letters int // dead letters in the end
		cause   bus.Cause
		calls   int // of messages, in all
	}{
		{"all done", func(context.Context, []*bus.Msg[int]) error { return nil }, 0, "", n},
		{"none named", func(context.Context, []*bus.Msg[int]) error { return new(bus.BatchError) }, 0, "", n},
		{"two fail once", func(_ context.Context, ms []*bus.Msg[int]) error {
			return each(ms, func(m *bus.Msg[int]) error {
				if m.Attempt == 1 && m.Data < 2 {
					return errNo
				}
				return nil
			})
		}, 0, "", n + 2},
		{"one is hopeless, wrapped", func(_ context.Context, ms []*bus.Msg[int]) error {
			return fmt.Errorf("batch: %w", each(ms, func(m *bus.Msg[int]) error {
				if m.Data == 3 {
					return bus.Permanent(errNo)
				}
				return nil
			}))
		}, 1, bus.CausePermanent, n},
		{"an error", func(_ context.Context, ms []*bus.Msg[int]) error { return errNo }, n, bus.CauseError, 3 * n},
		{"a permanent error", func(_ context.Context, ms []*bus.Msg[int]) error { return bus.Permanent(errNo) }, n, bus.CausePermanent, n},
		{"a panic", func(_ context.Context, ms []*bus.Msg[int]) error { panic("no") }, n, bus.CausePanic, 3 * n},
		{"the deadline", func(ctx context.Context, ms []*bus.Msg[int]) error { <-ctx.Done(); return ctx.Err() }, n, bus.CauseDeadline, 3 * n},
		{"an index that is not there", func(_ context.Context, ms []*bus.Msg[int]) error {
			return &bus.BatchError{Failed: map[int]error{len(ms): errNo}}
		}, n, bus.CauseError, 3 * n},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				storeRange(t, st, "S", 0, n)
				var calls atomic.Int64
				con := consumeBatch(t, st, "d", "S", func(ctx context.Context, ms []*bus.Msg[int]) error {
					calls.Add(int64(len(ms)))
					return tc.handle(ctx, ms)
				}, bus.Retry(bus.RetryPolicy{MaxAttempts: 3}), bus.HandlerTimeout(time.Second))
				pass(10 * time.Minute)
				if calls.Load() != int64(tc.calls) {
					t.Errorf("%d messages came, want %d", calls.Load(), tc.calls)
				}
				ls := deadLetters(t, st, bus.DeadFilter{})
				if len(ls) != tc.letters {
					t.Errorf("%d dead letters, want %d", len(ls), tc.letters)
				}
				for _, l := range ls {
					if l.Cause != tc.cause {
						t.Errorf("a dead letter says %s: %s", l.Cause, l.Error)
					}
				}
				must(t, con.Drain(t.Context()))
				mustBeDone(t, b, "S", "d")
			}, bus.WithLogger(silent()))
		})
	}
}

// What cannot be decoded is in no batch, and fails alone.
func TestConsumeBatchOfWhatItCannotDecode(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 5)
		_, err := b.JetStream().Publish(t.Context(), "S", []byte("no number"))
		must(t, err)
		storeRange(t, st, "S", 5, 10)
		var got batches
		con := consumeBatch(t, st, "d", "S", func(_ context.Context, ms []*bus.Msg[int]) error {
			got.note(ms)
			return nil
		}, bus.BatchSize(11), bus.BatchWait(time.Second))
		pass(time.Minute)
		if all := got.list(); len(all) != 1 || !slices.Equal(all[0], []uint64{1, 2, 3, 4, 5, 7, 8, 9, 10, 11}) {
			t.Errorf("got %v", all)
		}
		if ls := deadLetters(t, st, bus.DeadFilter{}); len(ls) != 1 || ls[0].Cause != bus.CauseMalformed || ls[0].Sequence != 6 {
			t.Errorf("the dead letters are %+v", ls)
		}
		must(t, con.Drain(t.Context()))
	}, bus.WithLogger(silent()))
}

// Middleware sees each message by itself, with its own outcome, and may keep one out.
func TestConsumeBatchMiddleware(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 6)
		var seen sync.Map
		mw := func(next bus.RawHandler) bus.RawHandler {
			return func(ctx context.Context, m *bus.RawMsg) error {
				switch string(m.Data) {
				case "4":
					return nil // swallowed
				case "5":
					m.Data = []byte("50")
				}
				err := next(ctx, m)
				if again := next(ctx, m); !errors.Is(again, err) {
					t.Errorf("called again it returns %v, before %v", again, err)
				}
				seen.Store(m.Sequence, err)
				return err
			}
		}
		var data []int
		con := consumeBatch(t, st, "d", "S", func(_ context.Context, ms []*bus.Msg[int]) error {
			var failed bus.BatchError
			for i, m := range ms {
				data = append(data, m.Data)
				if m.Data == 1 && m.Attempt == 1 {
					failed.Add(i, bus.Permanent(errNo))
				}
			}
			return failed.Err()
		}, bus.Use(mw), bus.BatchSize(6))
		pass(time.Minute)
		if !slices.Equal(data, []int{0, 1, 2, 3, 50}) {
			t.Errorf("got %v", data)
		}
		for seq := uint64(1); seq <= 6; seq++ {
			err, ok := seen.Load(seq)
			if ok != (seq != 5) || (err != nil) != (seq == 2) {
				t.Errorf("of message %d it saw %v", seq, err)
			}
		}
		must(t, con.Drain(t.Context()))
		mustBeDone(t, b, "S", "d")
	}, bus.WithLogger(silent()))
}

// The copy of a message in the same batch, and in another batch that is being handled, does
// not wait for the first one.
func TestConsumeBatchDeduplicate(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.ConsumeOption{
		"same batch":    nil,
		"other batches": {bus.BatchSize(2), bus.Concurrency(2)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				for _, ids := range [][]string{{"a", "b"}, {"b", "a"}} {
					for _, id := range ids {
						must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[int]("S"), 1, bus.MsgID(id))))
					}
					pass(10 * time.Minute) // the stream forgets the IDs
				}
				mw, err := middleware.Deduplicate(time.Hour, 1000)
				must(t, err)
				var got batches
				consumeBatch(t, st, "d", "S", func(_ context.Context, ms []*bus.Msg[int]) error {
					time.Sleep(500 * time.Millisecond) // in the bubble: virtual time
					got.note(ms)
					return nil
				}, append(opts, bus.Use(mw))...)
				pass(10 * time.Second)
				if all := got.list(); len(all) != 1 || !slices.Equal(all[0], []uint64{1, 2}) {
					t.Errorf("got %v, want one batch of the first two", all)
				}
				mustBeDone(t, b, "S", "d")
			})
		})
	}
}

// Middleware that panics fails its own message, before and after the batch is handled.
func TestConsumeBatchMiddlewareThatPanics(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 5)
		var got batches
		consumeBatch(t, st, "d", "S", func(_ context.Context, ms []*bus.Msg[int]) error {
			got.note(ms)
			return nil
		}, bus.Use(func(next bus.RawHandler) bus.RawHandler {
			return func(ctx context.Context, m *bus.RawMsg) error {
				if m.Attempt == 1 && m.Sequence == 2 {
					panic("before")
				}
				err := next(ctx, m)
				if m.Attempt == 1 && m.Sequence == 4 {
					panic("after")
				}
				return err
			}
		}), bus.Retry(bus.RetryPolicy{MinBackoff: time.Second, MaxBackoff: time.Second}))
		pass(time.Minute)
		all := got.list()
		if len(all) == 0 || !slices.Equal(all[0], []uint64{1, 3, 4, 5}) {
			t.Errorf("got %v", all)
		}
		if again := slices.Sorted(slices.Values(slices.Concat(all[1:]...))); !slices.Equal(again, []uint64{2, 4}) {
			t.Errorf("%v were handled again", again)
		}
		if s := b.Stats(); s.HandlerErrors != 2 {
			t.Errorf("the statistics are %+v", s)
		}
		mustBeDone(t, b, "S", "d")
	}, bus.WithLogger(silent()))
}

// Middleware may call next on a goroutine of its own, wait for that or not, and call it
// when it is too late.
func TestConsumeBatchMiddlewareOnOtherGoroutines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		patience, late time.Duration // how long the middleware waits for next, which it calls so late
		calls          int           // of the five messages, in all
	}{
		"waits":            {patience: time.Hour, calls: 5},
		"returns early":    {patience: time.Second, calls: 9}, // all are handled, four of them again
		"calls it in vain": {patience: time.Second, late: time.Minute, calls: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				storeRange(t, st, "S", 0, 5)
				var got batches
				consumeBatch(t, st, "d", "S", func(_ context.Context, ms []*bus.Msg[int]) error {
					time.Sleep(10 * time.Second) // in the bubble: virtual time
					got.note(ms)
					return nil
				}, bus.Use(func(next bus.RawHandler) bus.RawHandler {
					return func(ctx context.Context, m *bus.RawMsg) error {
						if m.Attempt > 1 || m.Sequence == 5 {
							return next(ctx, m)
						}
						result := make(chan error, 1)
						go func() {
							time.Sleep(c.late)
							result <- next(ctx, m)
						}()
						select {
						case err := <-result:
							return err
						case <-time.After(c.patience):
							return errNo
						}
					}
				}))
				pass(10 * time.Minute)
				if n := len(slices.Concat(got.list()...)); n != c.calls {
					t.Errorf("%v were handled, want %d messages in all", got.list(), c.calls)
				}
				mustBeDone(t, b, "S", "d")
			}, bus.WithLogger(silent()))
		})
	}
}

// The largest batch nests as many calls.
func TestConsumeBatchLargest(t *testing.T) {
	t.Parallel()
	const n = 10_000
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	for _, f := range storeAsync(t, st, "S", 0, n) {
		must(t, second(f.Wait(t.Context())))
	}
	done := make(chan int, n)
	consumeBatch(t, st, "d", "S", func(_ context.Context, ms []*bus.Msg[int]) error {
		done <- len(ms)
		return nil
	}, bus.BatchSize(n), bus.BatchWait(time.Second), bus.Use(func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error { return next(ctx, m) }
	}))
	for left := n; left > 0; {
		left -= receive(t, done)
	}
}

// A drain gives back what has not become a batch, and waits for one that runs; its
// handler may end the bus.
func TestConsumeBatchDrain(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 15)
		var got batches
		con := consumeBatch(t, st, "d", "S", func(_ context.Context, ms []*bus.Msg[int]) error {
			time.Sleep(time.Minute) // in the bubble: virtual time
			got.note(ms)
			return nil
		}, bus.BatchSize(10), bus.BatchWait(time.Hour), bus.Concurrency(2))
		synctest.Wait()
		must(t, second(0, con.Drain(withDeadline(t, 2*time.Minute))))
		if all := got.list(); len(all) != 1 || len(all[0]) != 10 {
			t.Errorf("got %v", all)
		}
		var self atomic.Pointer[bus.Consumer]
		ended := make(chan error, 1)
		self.Store(consumeBatch(t, st, "d", "S", func(ctx context.Context, ms []*bus.Msg[int]) error {
			got.note(ms)
			ended <- self.Load().Drain(ctx)
			return nil
		}, bus.BatchSize(5)))
		must(t, receive(t, ended))
		pass(time.Minute)
		if all := slices.Concat(got.list()...); !slices.Equal(slices.Sorted(slices.Values(all)), upTo(15)) {
			t.Errorf("got %v", all)
		}
	})
}

func TestConsumeBatchMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	handle := func(context.Context, []*bus.Msg[int]) error { return nil }
	try := func(opts ...bus.ConsumeOption) error {
		return second(bus.ConsumeBatch(t.Context(), st, "d", "S", handle, opts...))
	}
	asError[*bus.OptionError](t, second(bus.ConsumeBatch[int](t.Context(), st, "d", "S", nil)), "ConsumeBatch: handler is nil")
	asError[*bus.OptionError](t, second(bus.ConsumeBatch(t.Context(), nil, "d", "S", handle)), "stream is nil")
	asError[*bus.SubjectError](t, second(bus.ConsumeBatch(t.Context(), st, "d", "T", handle)), "stores nothing that matches")
	asError[*bus.OptionError](t, try(bus.BatchSize(0)), "BatchSize(0)")
	asError[*bus.OptionError](t, try(bus.BatchSize(10_001)), "between 1 and 10000")
	asError[*bus.OptionError](t, try(bus.BatchWait(-1)), "BatchWait(-1ns)")
	asError[*bus.OptionError](t, try(bus.BatchSize(1000), bus.Concurrency(100)), "BatchSize(1000)", "Concurrency of 100")
	asError[*bus.OptionError](t, try(bus.KeyByToken(2)), "has only 1 tokens")
	asError[*bus.OptionError](t, try(nil), "option 1")
	asError[*bus.OptionError](t, second(bus.Consume(t.Context(), st, "d", "S", ignore[int], bus.BatchSize(3))), "for ConsumeBatch only")
	asError[*bus.OptionError](t, second(bus.Consume(t.Context(), st, "d", "S", ignore[int], bus.BatchWait(0))), "for ConsumeBatch only")
	if text := (&bus.BatchError{Failed: map[int]error{3: errNo, 1: errNo}}).Error(); text != "bus: 2 messages of a batch failed: message 1: no; message 3: no" {
		t.Errorf("got %q", text)
	}
	var none *bus.BatchError
	must(t, none.Err())
}

// Those that may have ended a process run one after the other; none of them waits for a
// batch that nothing else can fill.
func TestConsumeBatchOfSuspects(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 40)
		var got ledger
		handle := func(ctx context.Context, ms []*bus.Msg[int]) error {
			time.Sleep(time.Second) // in the bubble: virtual time
			for _, m := range ms {
				must(t, got.handle(ctx, m))
			}
			return nil
		}
		opts := []bus.ConsumeOption{bus.BatchSize(10), bus.BatchWait(time.Hour), bus.Concurrency(2), bus.AckWait(2 * time.Second)}
		must(t, consumeBatch(t, st, "d", "S", handle, opts...).Drain(t.Context())) // it has made the durable
		pass(time.Second)
		fetchAndDie(t, b, "S", "d", 40)
		pass(5 * time.Second)
		before := got.distinct()
		consumeBatch(t, st, "d", "S", handle, opts...)
		pass(2 * time.Minute)
		if n := got.distinct() - before; n != 40-before {
			t.Errorf("%d of %d messages were handled", n, 40-before)
		}
	})
}
