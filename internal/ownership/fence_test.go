package ownership

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
)

// stores are two processes that look at one claim, without members.
func (w *world) stores() (a, b *store, end func()) {
	la, lb := w.dial(nil), w.dial(nil)
	return &store{names, la}, &store{names, lb}, func() {
		la.Close()
		lb.Close()
	}
}

func TestClaimIsTakenByOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		ctx := t.Context()
		if h, epoch, err := a.readLease(ctx); err != nil || epoch != 0 || h != (lease{}) {
			t.Fatalf("the claim that never was is %v, epoch %d, %v", h, epoch, err)
		}
		epoch, err := a.acquireLease(ctx, lease{Member: "a"}, 0)
		must(t, err)
		if _, err := b.acquireLease(ctx, lease{Member: "b"}, 0); !errors.Is(err, ErrLost) {
			t.Errorf("the second one got %v", err)
		}
		if again, err := a.acquireLease(ctx, lease{Member: "a"}, 0); err != nil || again != epoch {
			t.Errorf("who repeats its claim gets epoch %d, %v", again, err)
		}
		must(t, a.releaseLease(ctx, "a", epoch))
		h, freed, err := b.readLease(ctx)
		if err != nil || !h.Released {
			t.Errorf("the freed claim is %v, %v", h, err)
		}
		_, err = b.acquireLease(ctx, lease{Member: "b"}, freed)
		must(t, err)
		if err := a.releaseLease(ctx, "a", epoch); !errors.Is(err, ErrLost) {
			t.Errorf("who has it no more can free it: %v", err)
		}
	})
}

func TestRecordOfAStaleOwnerIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		ctx := t.Context()
		first, err := a.acquireLease(ctx, lease{Member: "a"}, 0)
		must(t, err)
		one := settleRecord{Entries: []settledMessage{{messageID: messageID{Position: 1, Time: 5}}}}
		must(t, a.writeSettleRecord(ctx, one, first))
		second, err := b.acquireLease(ctx, lease{Member: "b"}, first)
		must(t, err)
		if err := a.writeSettleRecord(ctx, settleRecord{}, first); !errors.Is(err, ErrLost) {
			t.Errorf("the old owner's record: %v", err)
		}
		r, err := b.readSettleRecord(ctx)
		if err != nil || !slices.Equal(r.Entries, one.Entries) {
			t.Errorf("the record is %v, %v", r, err)
		}
		must(t, b.writeSettleRecord(ctx, settleRecord{}, second))
	})
}

// fenced is a fence whose confirmations wait for a word.
func fenced(t *testing.T, s *store, epoch uint64, before settleRecord) (f *fence, confirm chan error) {
	confirm = make(chan error)
	f = newFence(s, epoch, before, time.Second, func(ctx context.Context) error {
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
		epoch, err := a.acquireLease(t.Context(), lease{Member: "a"}, 0)
		must(t, err)
		f, confirm := fenced(t, a, epoch, settleRecord{})
		one, two, three := messageID{Position: 1}, messageID{Position: 2}, messageID{Position: 3, Source: 1}
		verdict := &settle.DeadReason{Cause: "error", Error: "no", Attempts: 3}
		sent := func(id messageID) func(bool) { return func(bool) { f.acknowledged(id) } }
		f.settle(one, sent(one))
		f.recordDeadLetter(two, verdict, func(bool) {}) // its letter is not written yet
		synctest.Wait()
		mustRecord(t, b, one, two)
		confirm <- errors.New("no connection")
		time.Sleep(time.Second)
		confirm <- nil
		f.settle(three, sent(three))
		synctest.Wait()
		mustRecord(t, b, two, three)
		if dead, settled := f.settled(two); !settled || dead != verdict {
			t.Errorf("the dead letter is %v, %v", dead, settled)
		}
		f.close()
		epoch, err = b.acquireLease(t.Context(), lease{Member: "b"}, epoch)
		must(t, err)
		before, err := b.readSettleRecord(t.Context())
		must(t, err)
		next, confirm := fenced(t, b, epoch, before)
		if dead, settled := next.settled(two); !settled || *dead != *verdict {
			t.Errorf("the next owner finds %v, %v", dead, settled)
		}
		if _, settled := next.settled(three); !settled {
			t.Error("the next owner does not know what the first has settled")
		}
		next.acknowledged(two)
		confirm <- nil
		next.forgetMissing(func(id messageID) bool { return id == one })
		if _, settled := next.settled(three); settled {
			t.Error("what has not come again is not forgotten")
		}
		must(t, next.flush(t.Context()))
		next.close()
	})
}

func mustRecord(t *testing.T, s *store, want ...messageID) {
	t.Helper()
	r, err := s.readSettleRecord(t.Context())
	must(t, err)
	var have []messageID
	for _, e := range r.Entries {
		have = append(have, e.messageID)
	}
	slices.SortFunc(have, func(a, b messageID) int { return int(a.Position) - int(b.Position) })
	if !slices.Equal(have, want) {
		t.Errorf("the record has %v, want %v", have, want)
	}
}

func TestFenceOfAStaleOwner(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		epoch, err := a.acquireLease(t.Context(), lease{Member: "a"}, 0)
		must(t, err)
		told := make(chan struct{}, 1)
		f := newFence(a, epoch, settleRecord{}, time.Second, func(context.Context) error { return nil }, func() { told <- struct{}{} })
		_, err = b.acquireLease(t.Context(), lease{Member: "b"}, epoch)
		must(t, err)
		results := make(chan bool, 2)
		f.settle(messageID{Position: 1}, func(ok bool) { results <- ok })
		if <-results {
			t.Error("the settlement of a stale owner is recorded")
		}
		<-told
		f.settle(messageID{Position: 2}, func(ok bool) { results <- ok })
		if <-results {
			t.Error("one after it is")
		}
		if err := f.flush(t.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("Flush returns %v", err)
		}
		f.close()
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
	epoch, err := a.acquireLease(t.Context(), lease{Member: "a"}, 0)
	must(t, err)
	f := newFence(a, epoch, settleRecord{}, time.Second, func(context.Context) error { return nil }, func() {})
	verdict := &settle.DeadReason{Cause: "error", Error: text, Attempts: 3}
	condemned := condemnAll(t, f, 1, 600, verdict)
	if n := len(condemned); n == 0 || n > most || n < most*8/10 {
		t.Errorf("there is room for %d verdicts, want about %d", n, most)
	}
	for i := range uint64(1000) {
		id := messageID{Position: 10_000 + i}
		f.settle(id, func(bool) { f.acknowledged(id) })
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, f.flush(ctx))
	if again := condemnAll(t, f, 1, 600, verdict); !slices.Equal(again, condemned) {
		t.Errorf("%d verdicts are taken again, want the %d before", len(again), len(condemned))
	}
	f.settle(condemned[0], func(bool) { f.acknowledged(condemned[0]) })
	must(t, f.flush(ctx))
	if others := condemnAll(t, f, 2, 600, verdict); len(others) != len(condemned) || slices.Equal(others, condemned) {
		t.Errorf("%d verdicts after a letter was written, want %d with another one", len(others), len(condemned))
	}
	f.close()
	before, err := b.readSettleRecord(t.Context())
	must(t, err)
	if len(before.Entries) != len(condemned) {
		t.Errorf("the next owner finds %d verdicts, want %d", len(before.Entries), len(condemned))
	}
}

// condemnAll returns for which of the messages there is room, once that is recorded.
func condemnAll(t *testing.T, f *fence, first, last uint64, v *settle.DeadReason) (condemned []messageID) {
	t.Helper()
	for position := first; position <= last; position++ {
		id := messageID{Position: position}
		if f.recordDeadLetter(id, v, func(ok bool) {
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
		epoch, err := a.acquireLease(t.Context(), lease{Member: "a"}, 0)
		must(t, err)
		var up atomic.Bool
		f := newFence(a, epoch, settleRecord{}, time.Second, func(context.Context) error {
			if up.Load() {
				return nil
			}
			return errors.New("no connection")
		}, func() {})
		for i := range uint64(1000) {
			id := messageID{Position: i + 1}
			f.settle(id, func(bool) { f.acknowledged(id) })
		}
		time.Sleep(time.Minute)
		up.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		must(t, f.flush(ctx))
		f.close()
	})
}
