package bus_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// What is stored from a place on is handled once more, in order, and nothing else is.
func TestRewind(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		to    func(began time.Time) bus.StartOption
		again []uint64
	}{
		{"to the first", func(time.Time) bus.StartOption { return bus.StartAtFirst() }, upTo(20)},
		{"to a sequence", func(time.Time) bus.StartOption { return bus.StartAtSequence(18) }, []uint64{18, 19, 20}},
		{"to where it is", func(time.Time) bus.StartOption { return bus.StartAtSequence(20) }, []uint64{20}},
		{"to a time", func(began time.Time) bus.StartOption { return bus.StartAtTime(began.Add(14*time.Minute + time.Second)) }, []uint64{16, 17, 18, 19, 20}},
		{"to the time of a message", func(began time.Time) bus.StartOption { return bus.StartAtTime(began.Add(15 * time.Minute)) }, []uint64{16, 17, 18, 19, 20}},
		{"to a time before all", func(began time.Time) bus.StartOption { return bus.StartAtTime(began.Add(-time.Hour)) }, upTo(20)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st, began := filledByMinute(t, b, 20)
				var got ledger
				con := consume(t, st, "d", "s.*", got.handle)
				synctest.Wait()
				must(t, con.Rewind(t.Context(), tc.to(began)))
				storeRange(t, st, "s.a", 20, 22)
				pass(10 * time.Minute)
				if want := slices.Concat(upTo(20), tc.again, []uint64{21, 22}); !slices.Equal(got.sequences(), want) {
					t.Errorf("got %v, want %v", got.sequences(), want)
				}
				if s := b.Stats(); s.Handled != int64(22+len(tc.again)) || len(s.Subscriptions) != 1 || s.Subscriptions[0].Received != s.Handled {
					t.Errorf("the statistics are %+v", s)
				}
				must(t, con.Drain(t.Context()))
				mustBeDone(t, b, "S", "d")
			})
		})
	}
}

// A rewind while handlers run, and messages wait, forgets nothing, whatever is
// unfinished before its target.
func TestRewindOfWhatIsUnfinished(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		key  []bus.ConsumeOption
	}{{"without keys", nil}, {"with keys", []bus.ConsumeOption{bus.KeyBySubject()}}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				for i := range 40 {
					storeRange(t, st, bus.Subject[int]([]string{"s.a", "s.b"}[i%2]), i, i+1)
				}
				var got ledger
				var failing atomic.Bool
				failing.Store(true)
				con := consume(t, st, "d", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
					time.Sleep(100 * time.Millisecond) // in the bubble: virtual time
					if m.Sequence == 3 && failing.Load() {
						return bus.RetryAfter(20*time.Second, errNo)
					}
					return got.handle(ctx, m)
				}, append(tc.key, bus.Concurrency(2))...)
				time.Sleep(1050 * time.Millisecond)
				must(t, con.Rewind(t.Context(), bus.StartAtSequence(8)))
				failing.Store(false)
				pass(5 * time.Minute)
				if n := got.distinct(); n != 40 {
					t.Errorf("%d of 40 messages were handled", n)
				}
				if n := len(got.sequences()); n < 41 || n > 80 {
					t.Errorf("%d calls", n)
				}
				must(t, con.Drain(t.Context()))
				if i := consumerInfo(t, b, "S", "d"); i.NumAckPending != 0 || i.NumPending != 0 {
					t.Errorf("not all is settled: %+v", i)
				}
			}, bus.WithLogger(silent()))
		})
	}
}

// Acknowledgements of what another member holds would count for what is sent again: it
// is waited for, and named when that takes too long.
func TestRewindWaitsForOtherMembers(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st, _ := filledByMinute(t, b, 6)
		var got ledger
		slow := func(ctx context.Context, m *bus.Msg[int]) error {
			time.Sleep(10 * time.Second) // in the bubble: virtual time
			return got.handle(ctx, m)
		}
		other := consume(t, st, "d", "s.*", slow)
		synctest.Wait()
		con := consume(t, st, "d", "s.*", got.handle)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		e := asError[*bus.ConsumerError](t, con.Rewind(ctx, bus.StartAtFirst()), "other processes hold", `"d"`, "deadline")
		if e.Messages != 6 || e.Running != 0 || e.Stream != "S" {
			t.Errorf("got %+v", e)
		}
		if until := consumerInfo(t, b, "S", "d").Config.PauseUntil; until != nil && until.After(time.Now()) {
			t.Error("it stays paused")
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		must(t, con.Rewind(ctx, bus.StartAtFirst()))
		pass(10 * time.Minute)
		for seq, n := range got.times {
			if n != 2 {
				t.Errorf("message %d was handled %d times", seq, n)
			}
		}
		must(t, other.Drain(t.Context()))
	})
}

// A handler that does not return is named, and the consumer goes on as before.
func TestRewindWhileAHandlerDoesNotReturn(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st, _ := filledByMinute(t, b, 3)
		var got ledger
		release := make(chan struct{})
		con := consume(t, st, "d", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Sequence == 2 {
				<-release
			}
			return got.handle(ctx, m)
		})
		time.Sleep(time.Hour)
		e := asError[*bus.ConsumerError](t, con.Rewind(t.Context(), bus.StartAtFirst()), "1 handler has not returned (message 2 on s.b for 1h0m5s)")
		if e.Running != 1 || e.Longest.Sequence != 2 {
			t.Errorf("got %+v", e)
		}
		close(release)
		pass(time.Minute)
		got.mustBeOnce(t, 3)
		must(t, con.Drain(t.Context()))
		mustBeDone(t, b, "S", "d")
	})
}

// A pause of the user's is not ended by a rewind.
func TestRewindOfAPausedConsumer(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st, _ := filledByMinute(t, b, 3)
		var got ledger
		con := consume(t, st, "d", "s.*", got.handle)
		synctest.Wait()
		must(t, con.Pause(t.Context(), time.Time{}))
		must(t, con.Rewind(t.Context(), bus.StartAtFirst()))
		pass(time.Hour)
		got.mustBeOnce(t, 3)
		must(t, con.Resume(t.Context()))
		pass(time.Minute)
		if n := len(got.sequences()); n != 6 {
			t.Errorf("%d calls", n)
		}
	})
}

// Who ends the consumer need not wait for a rewind.
func TestDrainDuringARewind(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*bus.Bus, *bus.Consumer) error{
		"Drain": func(_ *bus.Bus, c *bus.Consumer) error { return c.Drain(context.Background()) },
		"Stop":  func(_ *bus.Bus, c *bus.Consumer) error { c.Stop(); return nil },
		"Close": func(b *bus.Bus, _ *bus.Consumer) error { return b.Close() },
	} {
		for _, after := range []time.Duration{0, time.Microsecond, time.Second} {
			t.Run(name+after.String(), func(t *testing.T) {
				t.Parallel()
				bustest.Run(t, func(t *testing.T, b *bus.Bus) {
					st, _ := filledByMinute(t, b, 5)
					other := consume(t, st, "d", "s.*", func(context.Context, *bus.Msg[int]) error {
						if after == time.Second {
							time.Sleep(4 * time.Second) // in the bubble: virtual time
						}
						return nil
					})
					synctest.Wait()
					con := consume(t, st, "d", "s.*", ignore[int])
					result := make(chan error, 1)
					go func() { result <- con.Rewind(context.Background(), bus.StartAtFirst()) }()
					time.Sleep(after)
					began := time.Now()
					must(t, end(b, con))
					if took := time.Since(began); took > 5*time.Second {
						t.Errorf("it took %v", took)
					}
					if err := receive(t, result); err != nil {
						isError(t, err, bus.ErrClosed)
					}
					receive(t, con.Done())
					must(t, other.Drain(context.Background()))
				}, bus.WithLogger(silent()), bus.WithDrainTimeout(30*time.Second))
			})
		}
	}
}

func TestRewindMistakes(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st, _ := filledByMinute(t, b, 10)
		ctx := t.Context()
		con := consume(t, st, "d", "s.*", ignore[int])
		late := consume(t, st, "late", "s.*", ignore[int], bus.StartAtSequence(4))
		fresh := consume(t, st, "new", "s.*", ignore[int], bus.StartAtNew())
		synctest.Wait()
		for _, tc := range []struct {
			con    *bus.Consumer
			to     bus.StartOption
			at     uint64
			reason string
		}{
			{con, bus.StartAtSequence(11), 11, "the stream ends with 10"},
			{con, bus.StartAtTime(time.Now().Add(time.Hour)), 11, "the stream ends with 10"},
			{late, bus.StartAtSequence(3), 3, "was created to start later"},
			{late, bus.StartAtFirst(), 1, "was created to start later"},
			{fresh, bus.StartAtSequence(3), 3, "was created to start later"},
		} {
			e := asError[*bus.ConsumerError](t, tc.con.Rewind(ctx, tc.to), tc.reason)
			if e.Sequence != tc.at || e.Stream != "S" {
				t.Errorf("got %+v", e)
			}
		}
		must(t, late.Rewind(ctx, bus.StartAtSequence(4)))

		must(t, con.Pause(ctx, time.Time{}))
		storeRange(t, st, "s.a", 10, 20)
		asError[*bus.ConsumerError](t, con.Rewind(ctx, bus.StartAtSequence(15)), "has only reached 10")
		must(t, con.Resume(ctx))

		asError[*bus.OptionError](t, con.Rewind(ctx, bus.StartAtNew()), "Rewind(new)", "use StartAtFirst, StartAtSequence or StartAtTime")
		asError[*bus.OptionError](t, con.Rewind(ctx, bus.StartAtLast()), "Rewind(last)")
		asError[*bus.OptionError](t, con.Rewind(ctx, bus.StartAtSequence(0)), "sequences begin with 1")
		asError[*bus.OptionError](t, con.Rewind(ctx, bus.StartOption{}))

		inside, begun := make(chan error, 1), make(chan struct{})
		var self atomic.Pointer[bus.Consumer]
		self.Store(consume(t, st, "self", "s.*", func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Sequence == 20 {
				<-begun
				inside <- self.Load().Rewind(ctx, bus.StartAtFirst())
			}
			return nil
		}))
		close(begun)
		asError[*bus.ConsumerError](t, receive(t, inside), "from a handler of this consumer")

		must(t, con.Drain(ctx))
		isError(t, con.Rewind(ctx, bus.StartAtFirst()), bus.ErrClosed, "Rewind")
	})
}

// What others say of the pause while Rewind waits is not undone by its end.
func TestPauseDuringARewind(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		before bool // it was paused
		change func(context.Context, *bus.Consumer) error
	}{
		{"Pause", false, func(ctx context.Context, c *bus.Consumer) error { return c.Pause(ctx, time.Time{}) }},
		{"Resume", true, func(ctx context.Context, c *bus.Consumer) error { return c.Resume(ctx) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				var got ledger
				con := consume(t, st, "d", "S", func(ctx context.Context, m *bus.Msg[int]) error {
					time.Sleep(3 * time.Second) // in the bubble: virtual time
					return got.handle(ctx, m)
				})
				storeRange(t, st, "S", 0, 1)
				synctest.Wait()
				if tc.before {
					must(t, con.Pause(t.Context(), time.Time{}))
				}
				rewound := make(chan error, 1)
				go func() { rewound <- con.Rewind(t.Context(), bus.StartAtFirst()) }()
				time.Sleep(time.Second)
				must(t, tc.change(t.Context(), con))
				must(t, receive(t, rewound))
				l, err := con.Lag(t.Context())
				if must(t, err); l.PausedUntil.IsZero() != tc.before {
					t.Errorf("it is paused until %v", l.PausedUntil)
				}
				must(t, con.Resume(t.Context()))
				pass(time.Minute)
				if n := len(got.sequences()); n != 2 {
					t.Errorf("handled %d times", n)
				}
			})
		})
	}
}
