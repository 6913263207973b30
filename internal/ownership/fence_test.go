package ownership_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/ownership"
)

// stores are two processes that look at one claim, without members.
func (w *world) stores() (a, b *ownership.Store, end func()) {
	la, lb := w.dial(nil), w.dial(nil)
	return ownership.NewStore(la, names), ownership.NewStore(lb, names), func() {
		la.Close()
		lb.Close()
	}
}

func TestClaimIsTakenByOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		ctx := t.Context()
		if h, epoch, err := a.Look(ctx); err != nil || epoch != 0 || h != (ownership.Holder{}) {
			t.Fatalf("the claim that never was is %v, epoch %d, %v", h, epoch, err)
		}
		epoch, err := a.Take(ctx, ownership.Holder{Member: "a"}, 0)
		must(t, err)
		if _, err := b.Take(ctx, ownership.Holder{Member: "b"}, 0); !errors.Is(err, ownership.ErrLost) {
			t.Errorf("the second one got %v", err)
		}
		if again, err := a.Take(ctx, ownership.Holder{Member: "a"}, 0); err != nil || again != epoch {
			t.Errorf("who repeats its claim gets epoch %d, %v", again, err)
		}
		must(t, a.Free(ctx, "a", epoch))
		h, freed, err := b.Look(ctx)
		if err != nil || !h.Free {
			t.Errorf("the freed claim is %v, %v", h, err)
		}
		_, err = b.Take(ctx, ownership.Holder{Member: "b"}, freed)
		must(t, err)
		if err := a.Free(ctx, "a", epoch); !errors.Is(err, ownership.ErrLost) {
			t.Errorf("who has it no more can free it: %v", err)
		}
	})
}

func TestRecordOfAStaleOwnerIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		ctx := t.Context()
		first, err := a.Take(ctx, ownership.Holder{Member: "a"}, 0)
		must(t, err)
		one := ownership.Record{Entries: []ownership.Entry{{ID: ownership.ID{Position: 1, Time: 5}}}}
		must(t, a.Settle(ctx, one, first))
		second, err := b.Take(ctx, ownership.Holder{Member: "b"}, first)
		must(t, err)
		if err := a.Settle(ctx, ownership.Record{}, first); !errors.Is(err, ownership.ErrLost) {
			t.Errorf("the old owner's record: %v", err)
		}
		r, err := b.Settled(ctx)
		if err != nil || !slices.Equal(r.Entries, one.Entries) {
			t.Errorf("the record is %v, %v", r, err)
		}
		must(t, b.Settle(ctx, ownership.Record{}, second))
	})
}

// fenced is a fence whose confirmations wait for a word.
func fenced(t *testing.T, s *ownership.Store, epoch uint64, before ownership.Record) (f *ownership.Fence, confirm chan error) {
	confirm = make(chan error)
	f = ownership.NewFence(s, epoch, before, time.Second, func(ctx context.Context) error {
		select {
		case err := <-confirm:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}, func() {})
	return f, confirm
}

// What is settled is in the record until the server is known to have it acknowledged.
func TestRecordKeepsWhatIsNotConfirmed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		epoch, err := a.Take(t.Context(), ownership.Holder{Member: "a"}, 0)
		must(t, err)
		f, confirm := fenced(t, a, epoch, ownership.Record{})
		one, two, three := ownership.ID{Position: 1}, ownership.ID{Position: 2}, ownership.ID{Position: 3, Source: 1}
		verdict := &ownership.Verdict{Cause: "error", Error: "no", Attempts: 3}
		sent := func(id ownership.ID) func(bool) { return func(bool) { f.Sent(id) } }
		f.Settle(one, sent(one))
		f.Condemn(two, verdict, func(bool) {}) // its letter is not written yet
		synctest.Wait()
		mustRecord(t, b, one, two)
		confirm <- errors.New("no connection")
		time.Sleep(time.Second)
		confirm <- nil
		f.Settle(three, sent(three))
		synctest.Wait()
		mustRecord(t, b, two, three)
		if dead, settled := f.Settled(two); !settled || dead != verdict {
			t.Errorf("the dead letter is %v, %v", dead, settled)
		}
		f.Close()
		epoch, err = b.Take(t.Context(), ownership.Holder{Member: "b"}, epoch)
		must(t, err)
		before, err := b.Settled(t.Context())
		must(t, err)
		next, confirm := fenced(t, b, epoch, before)
		if dead, settled := next.Settled(two); !settled || *dead != *verdict {
			t.Errorf("the next owner finds %v, %v", dead, settled)
		}
		if _, settled := next.Settled(three); !settled {
			t.Error("the next owner does not know what the first has settled")
		}
		next.Sent(two)
		confirm <- nil
		next.Forget(func(id ownership.ID) bool { return id == one })
		if _, settled := next.Settled(three); settled {
			t.Error("what has not come again is not forgotten")
		}
		must(t, next.Flush(t.Context()))
		next.Close()
	})
}

func mustRecord(t *testing.T, s *ownership.Store, want ...ownership.ID) {
	t.Helper()
	r, err := s.Settled(t.Context())
	must(t, err)
	var have []ownership.ID
	for _, e := range r.Entries {
		have = append(have, e.ID)
	}
	slices.SortFunc(have, func(a, b ownership.ID) int { return int(a.Position) - int(b.Position) })
	if !slices.Equal(have, want) {
		t.Errorf("the record has %v, want %v", have, want)
	}
}

func TestFenceOfAStaleOwner(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		epoch, err := a.Take(t.Context(), ownership.Holder{Member: "a"}, 0)
		must(t, err)
		told := make(chan struct{}, 1)
		f := ownership.NewFence(a, epoch, ownership.Record{}, time.Second, func(context.Context) error { return nil }, func() { told <- struct{}{} })
		_, err = b.Take(t.Context(), ownership.Holder{Member: "b"}, epoch)
		must(t, err)
		results := make(chan bool, 2)
		f.Settle(ownership.ID{Position: 1}, func(ok bool) { results <- ok })
		if <-results {
			t.Error("the settlement of a stale owner is recorded")
		}
		<-told
		f.Settle(ownership.ID{Position: 2}, func(ok bool) { results <- ok })
		if <-results {
			t.Error("one after it is")
		}
		if err := f.Flush(t.Context()); !errors.Is(err, ownership.ErrLost) {
			t.Errorf("Flush returns %v", err)
		}
		f.Close()
	})
}

// Verdicts whose letters cannot be written fill half of a record at most: what is done is
// recorded beside them, and the next owner knows them. When letters are written there is
// room for others.
func TestVerdictsLeaveRoom(t *testing.T) {
	for name, c := range map[string]struct {
		maxPayload int32
		text       string
		most       int // verdicts at once
	}{
		"many":                {1 << 20, strings.Repeat("x", 1024), 500},
		"escaped":             {1 << 20, strings.Repeat("\x01", 1024), 90},
		"less room than most": {16 << 10, strings.Repeat("<", 1024), 1},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldWith(t, c.maxPayload, func(t *testing.T, w *world) { leavesRoom(t, w, c.text, c.most) })
		})
	}
}

func leavesRoom(t *testing.T, w *world, text string, most int) {
	a, b, end := w.stores()
	defer end()
	epoch, err := a.Take(t.Context(), ownership.Holder{Member: "a"}, 0)
	must(t, err)
	f := ownership.NewFence(a, epoch, ownership.Record{}, time.Second, func(context.Context) error { return nil }, func() {})
	verdict := &ownership.Verdict{Cause: "error", Error: text, Attempts: 3}
	condemned := condemnAll(t, f, 1, 600, verdict)
	if n := len(condemned); n == 0 || n > most || n < most*8/10 {
		t.Errorf("there is room for %d verdicts, want about %d", n, most)
	}
	for i := range uint64(1000) {
		id := ownership.ID{Position: 10_000 + i}
		f.Settle(id, func(bool) { f.Sent(id) })
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, f.Flush(ctx))
	if again := condemnAll(t, f, 1, 600, verdict); !slices.Equal(again, condemned) {
		t.Errorf("%d verdicts are taken again, want the %d before", len(again), len(condemned))
	}
	f.Settle(condemned[0], func(bool) { f.Sent(condemned[0]) })
	must(t, f.Flush(ctx))
	if others := condemnAll(t, f, 2, 600, verdict); len(others) != len(condemned) || slices.Equal(others, condemned) {
		t.Errorf("%d verdicts after a letter was written, want %d with another one", len(others), len(condemned))
	}
	f.Close()
	before, err := b.Settled(t.Context())
	must(t, err)
	if len(before.Entries) != len(condemned) {
		t.Errorf("the next owner finds %d verdicts, want %d", len(before.Entries), len(condemned))
	}
}

// condemnAll returns for which of the messages there is room, once that is recorded.
func condemnAll(t *testing.T, f *ownership.Fence, first, last uint64, v *ownership.Verdict) (condemned []ownership.ID) {
	t.Helper()
	for position := first; position <= last; position++ {
		id := ownership.ID{Position: position}
		if f.Condemn(id, v, func(ok bool) {
			if !ok {
				t.Errorf("the verdict on %d is refused", id.Position)
			}
		}) {
			condemned = append(condemned, id)
		}
	}
	synctest.Wait()
	return condemned
}

// What waits for a confirmation that does not come leaves as much room as there is.
func TestRecordsFitAMessage(t *testing.T) {
	inWorldWith(t, 16<<10, func(t *testing.T, w *world) {
		a, _, end := w.stores()
		defer end()
		epoch, err := a.Take(t.Context(), ownership.Holder{Member: "a"}, 0)
		must(t, err)
		var up atomic.Bool
		f := ownership.NewFence(a, epoch, ownership.Record{}, time.Second, func(context.Context) error {
			if up.Load() {
				return nil
			}
			return errors.New("no connection")
		}, func() {})
		for i := range uint64(1000) {
			id := ownership.ID{Position: i + 1}
			f.Settle(id, func(bool) { f.Sent(id) })
		}
		time.Sleep(time.Minute)
		up.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		must(t, f.Flush(ctx))
		f.Close()
	})
}
