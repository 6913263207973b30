package ownership

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// What waits for a confirmation that does not come leaves space for what is settled later.
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
			f.settle(id, func(error) { f.acknowledged(id) })
		}
		time.Sleep(time.Minute)
		up.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		must(t, f.flush(ctx))
		f.close()
	})
}
