package ownership

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// A member gets no reply to its report before another process owns the durable. The owner may
// have counted the outcome, unless it did not receive it.
func TestReportWithoutReply(t *testing.T) {
	for name, c := range map[string]struct {
		received bool
		want     error
	}{
		"received":     {true, ErrUnknown},
		"not received": {false, ErrLost},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				l := w.dial(nil)
				defer l.Close()
				s := &store{subjects: names, link: l}
				epoch, err := s.acquireLease(t.Context(), lease{Member: "owner", TTL: ttl}, 0)
				must(t, err)
				w.fakeOwner(l, epoch, c.received)
				b := w.join("b", 1)
				time.Sleep(ttl)
				next, err := s.acquireLease(t.Context(), lease{Member: "next", TTL: ttl}, epoch)
				must(t, err)
				second := w.fakeOwner(l, next, true)
				time.Sleep(ttl)
				synctest.Wait()
				if len(w.reasons) != 1 || !errors.Is(w.reasons[0], c.want) {
					t.Errorf("refused: %v, want %v", w.reasons, c.want)
				}
				must(t, errors.Join(append(w.failures, second.Unsubscribe())...))
				b.drain()
			})
		})
	}
}

// fakeOwner replies to the members in the place of an owner. The first one assigns a message to
// b, and ends when it receives the outcome, or before that. Later ones refuse outcomes.
func (w *world) fakeOwner(l *link.Link, epoch uint64, receives bool) (sub *nats.Subscription) {
	assigned := epoch > 1
	sub, err := l.Conn().Subscribe(names.owner(epoch), func(m *nats.Msg) {
		switch {
		case !strings.Contains(string(m.Data), `"result"`):
			w.fail(m.Respond([]byte(`{"ok":true}`)))
			if !assigned {
				time.Sleep(time.Second / 10) // b has read the reply
				assigned = true
				d := &wire.Delivery{In: wire.In{Subject: "a"}, Stored: &wire.Stored{Stream: "S", Sequence: 1, Deliveries: 1, Attempt: 1, Time: time.Now()}}
				out := encodeAssignment(d, names.assignments("b"), "inbox", assignmentID{Epoch: epoch, Number: 1, Key: "a"})
				w.fail(l.Publish(&out))
				if !receives {
					w.fail(sub.Unsubscribe())
				}
			}
		case epoch > 1:
			w.fail(m.Respond([]byte(`{}`)))
		default:
			w.fail(sub.Unsubscribe())
		}
	})
	must(w.t, err)
	return sub
}
