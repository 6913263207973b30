package ownership

import (
	"errors"
	"slices"
	"testing"
)

func TestLeaseIsAcquiredByOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		ctx := t.Context()
		if h, epoch, err := a.readLease(ctx); err != nil || epoch != 0 || h != (lease{}) {
			t.Fatalf("the lease that never was is %v, epoch %d, %v", h, epoch, err)
		}
		epoch, err := a.acquireLease(ctx, lease{Member: "a"}, 0)
		must(t, err)
		if _, err := b.acquireLease(ctx, lease{Member: "b"}, 0); !errors.Is(err, ErrLost) {
			t.Errorf("the second one got %v", err)
		}
		if again, err := a.acquireLease(ctx, lease{Member: "a"}, 0); err != nil || again != epoch {
			t.Errorf("repeating the request gets epoch %d, %v", again, err)
		}
		must(t, a.releaseLease(ctx, "a", epoch))
		h, freed, err := b.readLease(ctx)
		if err != nil || !h.Released {
			t.Errorf("the released lease is %v, %v", h, err)
		}
		_, err = b.acquireLease(ctx, lease{Member: "b"}, freed)
		must(t, err)
		if err := a.releaseLease(ctx, "a", epoch); !errors.Is(err, ErrLost) {
			t.Errorf("the old owner can release it: %v", err)
		}
	})
}

func TestRecordOfOldOwnerIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, end := w.stores()
		defer end()
		ctx := t.Context()
		first, err := a.acquireLease(ctx, lease{Member: "a"}, 0)
		must(t, err)
		one := settleRecord{Entries: []settledMessage{{messageID: messageID{Position: 1, Time: 5}}}}
		_, err = a.writeSettleRecord(ctx, one, first)
		must(t, err)
		second, err := b.acquireLease(ctx, lease{Member: "b"}, first)
		must(t, err)
		if _, err := a.writeSettleRecord(ctx, settleRecord{}, first); !errors.Is(err, ErrLost) {
			t.Errorf("the old owner's record: %v", err)
		}
		r, err := b.readSettleRecord(ctx)
		if err != nil || !slices.Equal(r.Entries, one.Entries) {
			t.Errorf("the record is %v, %v", r, err)
		}
		_, err = b.writeSettleRecord(ctx, settleRecord{}, second)
		must(t, err)
	})
}
