package ownership

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// An owner assigns a message again, to the same member, which was suspended and has the first
// assignment too. Its handler does not run twice at once: neither if both wait when the member
// continues, nor if the first one runs already. The later assignment counts.
func TestAssignedAgainToTheSameMember(t *testing.T) {
	for name, running := range map[string]bool{"both wait": false, "the first runs": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				l := w.dial(nil)
				defer l.Close()
				epoch, err := (&store{subjects: names, link: l}).acquireLease(t.Context(), lease{Member: "owner", TTL: ttl}, 0)
				must(t, err)
				outcomes := make(map[bool]int) // whether the message was returned
				owner, err := l.Conn().Subscribe(names.owner(epoch), func(m *nats.Msg) {
					if strings.Contains(string(m.Data), `"result"`) {
						outcomes[strings.Contains(string(m.Data), `"returned":true`)]++
					}
					w.fail(m.Respond([]byte(`{"ok":true}`)))
				})
				must(t, err)
				b := w.join("b", 2)
				time.Sleep(ttl / 2)
				assign := func(number uint64) {
					d := &wire.Delivery{In: wire.In{Subject: "a"}, Stored: &wire.Stored{Stream: "S", Sequence: 1, Deliveries: 1, Attempt: 1, Time: time.Now()}}
					out := encodeAssignment(d, names.assignments("b"), "inbox", assignmentID{Epoch: epoch, Number: number, Key: "a"})
					w.fail(l.Publish(&out))
				}
				if !running {
					b.suspend()
				}
				assign(1)
				time.Sleep(handler / 2)
				assign(2)
				time.Sleep(handler / 4)
				if !running {
					b.resume()
				}
				time.Sleep(ttl)
				synctest.Wait()
				w.mustNotOverlap()
				if outcomes[true] != 1 || outcomes[false] != 1 || w.handled[1] != 1 {
					t.Errorf("%d outcomes, %d returned, %d calls", outcomes[false], outcomes[true], w.handled[1])
				}
				must(t, errors.Join(append(w.failures, owner.Unsubscribe())...))
				b.drain()
			})
		})
	}
}
