package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
)

// storeOnceMore are the calls that send a message again when the answer is lost.
var storeOnceMore = map[string]func(ctx context.Context, st *bus.Stream) (*bus.Ack, error){
	"PublishTo": func(ctx context.Context, st *bus.Stream) (*bus.Ack, error) {
		return bus.PublishTo(ctx, st, "S", 1, bus.MsgID("1"))
	},
	"PublishToAsync": func(ctx context.Context, st *bus.Stream) (*bus.Ack, error) {
		f, err := bus.PublishToAsync(ctx, st, "S", 1, bus.MsgID("1"))
		if err != nil {
			return nil, err
		}
		return f.Wait(ctx)
	},
	"PublishToBatch": func(ctx context.Context, st *bus.Stream) (*bus.Ack, error) {
		return bus.PublishToBatch(ctx, st, bus.ItemOf("S", 1, bus.MsgID("1")))
	},
}

// A server that restarts forgets the IDs of messages that are gone. A message whose answer
// was lost before is not stored a second time: if nobody can tell, the outcome is unknown.
func TestPublishToOverARestartOfTheServer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		cfg   bus.StreamConfig
		after func(t *testing.T, home *bus.Bus, st *bus.Stream) // the message was stored
		want  *bus.Ack                                          // nil: unknown
		last  uint64                                            // sequence in the end
	}{
		{"handled", bus.StreamConfig{Retention: bus.WorkQueueRetention}, func(t *testing.T, home *bus.Bus, st *bus.Stream) {
			consume(t, st, "w", "S", ignore[int])
			eventually(t, "it is handled", func() bool { return streamInfo(t, home, "S").State.Msgs == 0 })
		}, nil, 1},
		{"purged", bus.StreamConfig{}, func(t *testing.T, home *bus.Bus, _ *bus.Stream) { must(t, purge(t, home, "S", 0)) }, nil, 1},
		{"replaced", bus.StreamConfig{MaxMsgsPerSubject: 1}, func(t *testing.T, _ *bus.Bus, st *bus.Stream) {
			storeRange(t, st, "S", 2, 3)
		}, nil, 2},
		{"there", bus.StreamConfig{Retention: bus.WorkQueueRetention}, func(*testing.T, *bus.Bus, *bus.Stream) {}, &bus.Ack{Stream: "S", Sequence: 1, Duplicate: true}, 1},
	} {
		for call, store := range storeOnceMore {
			t.Run(tc.name+" "+call, func(t *testing.T) {
				t.Parallel()
				b, r, home, restart := restartable(t)
				cfg := tc.cfg
				cfg.Name, cfg.AtomicBatches = "S", true
				homeStream := declare(t, home(), cfg)
				st, err := b.LookupStream(t.Context(), "S")
				must(t, err)
				r.deaf.Store(true)
				results := goStore(t, st, store)
				eventually(t, "the message is stored", func() bool { return streamInfo(t, home(), "S").State.LastSeq == 1 })
				tc.after(t, home(), homeStream)
				restart()
				got := receive(t, results)
				if tc.want == nil {
					isError(t, got.err, bus.ErrUnknownOutcome, `"S"`, "the server has restarted", "look for its effect")
				} else if got.err != nil || got.ack.Sequence != tc.want.Sequence || !got.ack.Duplicate {
					t.Errorf("got %+v, %v", got.ack, got.err)
				}
				if last := streamInfo(t, home(), "S").State.LastSeq; last != tc.last {
					t.Errorf("the last sequence is %d, want %d", last, tc.last)
				}
			})
		}
	}
}

// A message that the server did not store before it restarted is stored afterwards, also in
// a work queue whose earlier messages are gone.
func TestPublishToStoresAfterARestartOfTheServer(t *testing.T) {
	t.Parallel()
	for call, store := range storeOnceMore {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			b, r, home, restart := restartable(t)
			homeStream := declare(t, home(), bus.StreamConfig{Name: "S", Retention: bus.WorkQueueRetention, AtomicBatches: true})
			storeRange(t, homeStream, "S", 0, 5)
			consume(t, homeStream, "w", "S", ignore[int])
			eventually(t, "they are handled", func() bool { return streamInfo(t, home(), "S").State.Msgs == 0 })
			// Times are compared to within the time that the server takes to answer.
			eventually(t, "they are older than an answer takes", func() bool { return time.Since(streamInfo(t, home(), "S").State.LastTime) > time.Second })
			st, err := b.LookupStream(t.Context(), "S")
			must(t, err)
			r.mute.Store(true)
			results := goStore(t, st, store)
			eventually(t, "the message is lost", func() bool { return r.dropped.Load() > 0 })
			restart()
			if got := receive(t, results); got.err != nil || got.ack.Sequence != 6 || got.ack.Duplicate {
				t.Errorf("got %+v, %v", got.ack, got.err)
			}
		})
	}
}

// Of many messages that are on their way to a work queue when its server restarts, each is
// stored once at most, and those that are acknowledged are.
func TestPublishToAsyncOverARestartOfTheServer(t *testing.T) {
	t.Parallel()
	b, r, home, restart := restartable(t)
	homeStream := declare(t, home(), bus.StreamConfig{Name: "S", Retention: bus.WorkQueueRetention})
	consume(t, homeStream, "w", "S", ignore[int])
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	r.deaf.Store(true)
	lost := storeAsync(t, st, "S", 0, 200, bus.AutoID())
	eventually(t, "they are handled", func() bool {
		s := streamInfo(t, home(), "S").State
		return s.LastSeq == 200 && s.Msgs == 0
	})
	r.mute.Store(true)
	lost = append(lost, storeAsync(t, st, "S", 200, 300, bus.AutoID())...)
	eventually(t, "they are lost", func() bool { return r.dropped.Load() > 0 })
	restart()
	for i, f := range lost {
		ack, err := f.Wait(deadline(t))
		if i < 200 {
			isError(t, err, bus.ErrUnknownOutcome, "the server has restarted")
		} else if err == nil && ack.Sequence <= 200 {
			t.Errorf("message %d is stored as %d", i, ack.Sequence)
		}
	}
	later := storeAsync(t, st, "S", 300, 400, bus.AutoID())
	for _, f := range later {
		must(t, second(f.Wait(deadline(t))))
	}
}

// storeResult is what a call that stores a message returned.
type storeResult struct {
	ack *bus.Ack
	err error
}

func goStore(t *testing.T, st *bus.Stream, store func(context.Context, *bus.Stream) (*bus.Ack, error)) <-chan storeResult {
	t.Helper()
	results := make(chan storeResult, 1)
	ctx := withDeadline(t, stuck)
	go func() {
		ack, err := store(ctx, st)
		results <- storeResult{ack, err}
	}()
	return results
}

// restartable is remote with a server on disk. restart restarts that and lets the relay
// hear again.
func restartable(t *testing.T) (b *bus.Bus, r *relay, home func() *bus.Bus, restart func()) {
	t.Helper()
	dir := t.TempDir()
	now := openOn(t, dir, anyPort())
	r = newRelay(t, now.ClientURL())
	b, err := bus.Connect(t.Context(), r.url(), bus.WithLogger(silent()), bus.WithTimeout(stuck))
	must(t, err)
	t.Cleanup(func() {
		_ = b.Close()
		_ = now.Close()
	})
	return b, r, func() *bus.Bus { return now }, func() {
		t.Helper()
		must(t, now.Close())
		r.cut(true)
		now = openOn(t, dir, anyPort())
		r.deaf.Store(false)
		r.mute.Store(false)
		r.redirect(now.ClientURL())
	}
}
