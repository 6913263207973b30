package ownership

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
)

// fenced returns a fence whose confirmations wait for confirm.
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

// What is settled stays in the record until the server has confirmed its acknowledgement.
func TestRecordKeepsWhatIsNotConfirmed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		epoch, err := a.acquireLease(t.Context(), lease{Member: "a"}, 0)
		must(t, err)
		f, confirm := fenced(t, a, epoch, settleRecord{})
		one, two, three := messageID{Position: 1}, messageID{Position: 2}, messageID{Position: 3, Source: 1}
		reason := &settle.DeadReason{Cause: "error", Error: "no", Attempts: 3}
		sent := func(id messageID) func(error) { return func(error) { f.acknowledged(id) } }
		f.settle(one, sent(one))
		f.recordDeadLetter(two, reason, func(error) {}) // its dead letter is not written yet
		synctest.Wait()
		mustRecord(t, b, one, two)
		confirm <- errors.New("no connection")
		time.Sleep(time.Second)
		confirm <- nil
		f.settle(three, sent(three))
		synctest.Wait()
		mustRecord(t, b, two, three)
		if got, settled := f.settled(two); !settled || got != reason {
			t.Errorf("the dead letter is %v, %v", got, settled)
		}
		f.close()
		epoch, err = b.acquireLease(t.Context(), lease{Member: "b"}, epoch)
		must(t, err)
		before, err := b.readSettleRecord(t.Context())
		must(t, err)
		next, confirm := fenced(t, b, epoch, before)
		if got, settled := next.settled(two); !settled || *got != *reason {
			t.Errorf("the next owner finds %v, %v", got, settled)
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

func TestFenceOfOldOwner(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		epoch, err := a.acquireLease(t.Context(), lease{Member: "a"}, 0)
		must(t, err)
		told := make(chan struct{}, 1)
		f := newFence(a, epoch, settleRecord{}, time.Second, func(context.Context) error { return nil }, func() { told <- struct{}{} })
		_, err = b.acquireLease(t.Context(), lease{Member: "b"}, epoch)
		must(t, err)
		results := make(chan error, 2)
		f.settle(messageID{Position: 1}, func(err error) { results <- err })
		if err := <-results; !errors.Is(err, ErrLost) {
			t.Errorf("the settlement of an old owner: %v", err)
		}
		<-told
		f.settle(messageID{Position: 2}, func(err error) { results <- err })
		if err := <-results; !errors.Is(err, ErrLost) {
			t.Errorf("one after it: %v", err)
		}
		if err := f.flush(t.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("Flush returns %v", err)
		}
		f.close()
	})
}

// The reasons of dead letters that cannot be written fill at most half of a record. What is
// done is recorded beside them, and the next owner reads them. When dead letters are written
// there is space for others.
func TestDeadReasonsLeaveSpace(t *testing.T) {
	for name, c := range map[string]struct {
		maxPayload int32
		text       string
		most       int // reasons at once
	}{
		"many":          {1 << 20, strings.Repeat("x", 1024), 500},
		"escaped":       {1 << 20, strings.Repeat("\x01", 1024), 90},
		"a small limit": {16 << 10, strings.Repeat("<", 1024), 1},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldWith(t, c.maxPayload, func(t *testing.T, w *world) { leavesSpace(t, w, c.text, c.most) })
		})
	}
}

func leavesSpace(t *testing.T, w *world, text string, most int) {
	a, b, end := w.stores()
	defer end()
	epoch, err := a.acquireLease(t.Context(), lease{Member: "a"}, 0)
	must(t, err)
	f := newFence(a, epoch, settleRecord{}, time.Second, func(context.Context) error { return nil }, func() {})
	reason := &settle.DeadReason{Cause: "error", Error: text, Attempts: 3}
	recorded := recordAll(t, f, 1, 600, reason)
	if n := len(recorded); n == 0 || n > most || n < most*8/10 {
		t.Errorf("there is room for %d reasons, want about %d", n, most)
	}
	for i := range uint64(1000) {
		id := messageID{Position: 10_000 + i}
		f.settle(id, func(error) { f.acknowledged(id) })
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, f.flush(ctx))
	if again := recordAll(t, f, 1, 600, reason); !slices.Equal(again, recorded) {
		t.Errorf("%d reasons are taken again, want the %d before", len(again), len(recorded))
	}
	f.settle(recorded[0], func(error) { f.acknowledged(recorded[0]) })
	must(t, f.flush(ctx))
	if others := recordAll(t, f, 2, 600, reason); len(others) != len(recorded) || slices.Equal(others, recorded) {
		t.Errorf("%d reasons after a dead letter was written, want %d with another one", len(others), len(recorded))
	}
	f.close()
	before, err := b.readSettleRecord(t.Context())
	must(t, err)
	if len(before.Entries) != len(recorded) {
		t.Errorf("the next owner finds %d reasons, want %d", len(before.Entries), len(recorded))
	}
}

// recordAll returns the messages whose reason fits, once it is recorded.
func recordAll(t *testing.T, f *fence, first, last uint64, v *settle.DeadReason) (recorded []messageID) {
	t.Helper()
	for position := first; position <= last; position++ {
		id := messageID{Position: position}
		if f.recordDeadLetter(id, v, func(err error) {
			if err != nil {
				t.Errorf("the reason on %d: %v", id.Position, err)
			}
		}) {
			recorded = append(recorded, id)
		}
	}
	synctest.Wait()
	return recorded
}
