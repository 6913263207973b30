package ownership

import (
	"context"
	"errors"
	"testing"
	"time"
)

// An owner gets no reply to a settle record before another process has the lease. What is
// stored says whether the message is settled. It is not refused if a record has it: the next
// owner acknowledges it without a handler.
func TestRecordWithoutReply(t *testing.T) {
	one := settleRecord{Entries: []settledMessage{{messageID: messageID{Position: 1}}}}
	for name, c := range map[string]struct {
		stored bool
		next   *settleRecord // what the next owner has written
		want   error
	}{
		"stored":                                     {true, nil, nil},
		"stored, and the next owner has it":          {true, &one, nil},
		"stored, and the next owner has not":         {true, &settleRecord{}, ErrUnknown},
		"not stored":                                 {false, nil, ErrLost},
		"not stored, and the next owner has written": {false, &settleRecord{}, ErrUnknown},
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
				epoch, err = b.acquireLease(t.Context(), lease{Member: "b"}, epoch)
				must(t, err)
				if c.next != nil {
					_, err = b.writeSettleRecord(t.Context(), *c.next, epoch)
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
