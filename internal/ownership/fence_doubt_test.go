package ownership

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"
)

// An owner gets no reply to a settle record before another process has the lease. What is
// stored says whether the message is settled. It is not refused if a record has it: the next
// owner acknowledges it without a handler.
func TestRecordWithoutReply(t *testing.T) {
	type owner = func(a, b uint64) uint64
	a, b, unsaid := func(a, _ uint64) uint64 { return a }, func(_, b uint64) uint64 { return b }, func(uint64, uint64) uint64 { return 0 }
	nobody := func(uint64, uint64) uint64 { return math.MaxUint64 }
	for name, c := range map[string]struct {
		stored bool
		next   owner // who settled the message, as the next owner has written it; nil: it has written nothing
		want   error
	}{
		"stored":                            {true, nil, nil},
		"stored, and the next owner has it": {true, a, nil},
		"not stored, and the next owner settled it":  {false, b, ErrLost},
		"not stored, and an old version settled it":  {false, unsaid, ErrUnknown},
		"stored, and the next owner has not":         {true, nobody, ErrUnknown},
		"not stored":                                 {false, nil, ErrLost},
		"not stored, and the next owner has written": {false, nobody, ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var s suspension
				la, lb := w.dial(s.wrap), w.dial(nil)
				defer la.Close()
				defer lb.Close()
				a, b := &store{subjects: names, link: la}, &store{subjects: names, link: lb}
				epoch, err := a.acquireLease(t.Context(), lease{Member: "a"}, 0)
				must(t, err)
				f := newFence(a, epoch, settleRecord{}, time.Second, func(context.Context) error { return nil }, func() {})
				if c.stored {
					s.deafen()
				} else {
					s.suspend()
				}
				result := make(chan error, 1)
				f.settle(messageID{Position: 1}, func(err error) { result <- err })
				time.Sleep(1100 * time.Millisecond)
				later, err := b.acquireLease(t.Context(), lease{Member: "b"}, epoch)
				must(t, err)
				if c.next != nil {
					var r settleRecord
					if by := c.next(epoch, later); by != math.MaxUint64 {
						r.Entries = []settledMessage{{messageID: messageID{Position: 1}, Epoch: by}}
					}
					_, err = b.writeSettleRecord(t.Context(), r, later)
					must(t, err)
				}
				s.forget()
				s.resume()
				if err := <-result; !errors.Is(err, c.want) {
					t.Errorf("the outcome is %v, want %v", err, c.want)
				}
				f.close()
			})
		})
	}
}
