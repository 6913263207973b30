package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// removals are the ways in which a stream removes the message 1 of S.
var removals = map[string]struct {
	cfg    bus.StreamConfig
	opts   []bus.StoreOption
	remove func(t *testing.T, b *bus.Bus, st *bus.Stream)
}{
	"MaxAge": {cfg: bus.StreamConfig{MaxAge: time.Minute}},
	"TTL":    {cfg: bus.StreamConfig{MessageTTL: true}, opts: []bus.StoreOption{bus.TTL(time.Minute)}},
	"a newer value": {cfg: bus.StreamConfig{MaxMsgsPerSubject: 1}, remove: func(t *testing.T, _ *bus.Bus, st *bus.Stream) {
		storeRange(t, st, "S", 2, 3)
	}},
	"Purge": {remove: func(t *testing.T, _ *bus.Bus, st *bus.Stream) {
		must(t, second(st.Purge(t.Context(), bus.PurgeFilter{})))
	}},
	"a deletion": {remove: func(t *testing.T, b *bus.Bus, _ *bus.Stream) {
		st, err := b.JetStream().Stream(t.Context(), "S")
		must(t, err)
		must(t, st.DeleteMsg(t.Context(), 1))
	}},
}

// A message that its stream removed while it waited for another attempt is not handled
// again, and that is told and counted.
func TestRemovedMessagesAreNotRetried(t *testing.T) {
	t.Parallel()
	for name, tc := range removals {
		for wait, after := range map[string]time.Duration{"in the process": 25 * time.Second, "in S-retry": time.Hour} {
			if after < time.Minute && tc.remove == nil {
				after = 2 * time.Minute // is put aside once it is longer
			}
			for how, start := range map[string]func(testing.TB, *bus.Stream, bus.Handler[int]) *bus.Consumer{
				"one by one": func(t testing.TB, st *bus.Stream, h bus.Handler[int]) *bus.Consumer {
					return consume(t, st, "d", "S", h)
				},
				"keyed": func(t testing.TB, st *bus.Stream, h bus.Handler[int]) *bus.Consumer {
					return consume(t, st, "d", "S", h, bus.KeyBySubject())
				},
				"in batches": func(t testing.TB, st *bus.Stream, h bus.Handler[int]) *bus.Consumer {
					return consumeBatch(t, st, "d", "S", func(ctx context.Context, ms []*bus.Msg[int]) error { return h(ctx, ms[0]) })
				},
			} {
				t.Run(name+" "+wait+" "+how, func(t *testing.T) {
					t.Parallel()
					record, events := recordEvents()
					bustest.Run(t, func(t *testing.T, b *bus.Bus) {
						cfg := tc.cfg
						cfg.Name = "S"
						st := declare(t, b, cfg)
						var calls []int
						c := start(t, st, func(_ context.Context, m *bus.Msg[int]) error {
							calls = append(calls, m.Data)
							if m.Data == 1 {
								return bus.RetryAfter(after, errNo)
							}
							return nil
						})
						must(t, second(bus.PublishTo(t.Context(), st, "S", 1, tc.opts...)))
						pass(time.Second)
						if tc.remove != nil {
							tc.remove(t, b, st)
						}
						pass(after + time.Minute)
						want := []int{1}
						if tc.cfg.MaxMsgsPerSubject > 0 {
							want = []int{1, 2}
						}
						if len(calls) != len(want) || calls[len(want)-1] != want[len(want)-1] {
							t.Errorf("the calls were for %v, want %v", calls, want)
						}
						nextEvent(t, events, event.Retry)
						if e := nextEvent(t, events, event.Removed); e.Stream != "S" || e.Durable != "d" || e.Sequence != 1 || e.Attempt != 1 || e.Subject != "S" {
							t.Errorf("got %+v", e)
						}
						if s := b.Stats(); s.Removed != 1 || s.Subscriptions[0].Removed != 1 || s.DeadLetters != 0 {
							t.Errorf("%d are counted as removed, %d as dead letters", s.Removed, s.DeadLetters)
						}
						must(t, c.Drain(t.Context()))
						mustBeDone(t, b, "S", "d")
					}, record, bus.WithLogger(silent()))
				})
			}
		}
	}
}

// A message that was acknowledged because it waits in S-retry is no removed one, where the
// stream keeps no acknowledged messages. Nor is one that was redriven.
func TestAcknowledgedMessagesAreNoRemovedOnes(t *testing.T) {
	t.Parallel()
	for name, retention := range map[string]bus.Retention{"work queue": bus.WorkQueueRetention, "interest": bus.InterestRetention} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S", Retention: retention})
				var calls int
				consume(t, st, "d", "S", func(context.Context, *bus.Msg[int]) error {
					if calls++; calls == 1 {
						return bus.RetryAfter(time.Hour, errNo)
					}
					return nil
				})
				storeRange(t, st, "S", 0, 1)
				pass(2 * time.Hour)
				if calls != 2 {
					t.Errorf("there were %d calls", calls)
				}
			}, bus.WithLogger(silent()))
		})
	}
	t.Run("redriven", func(t *testing.T) {
		t.Parallel()
		bustest.Run(t, func(t *testing.T, b *bus.Bus) {
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			var calls int
			consume(t, st, "d", "S", func(context.Context, *bus.Msg[int]) error {
				switch calls++; calls {
				case 1:
					return bus.Permanent(errNo)
				case 2:
					return bus.RetryAfter(time.Hour, errNo)
				case 3:
					return errNo
				}
				return nil
			})
			storeRange(t, st, "S", 0, 1)
			pass(time.Second)
			must(t, second(st.Purge(t.Context(), bus.PurgeFilter{})))
			must(t, second(st.Redrive(t.Context(), bus.DeadFilter{})))
			pass(2 * time.Hour)
			if calls != 4 {
				t.Errorf("there were %d calls", calls)
			}
		}, bus.WithLogger(silent()))
	})
}
