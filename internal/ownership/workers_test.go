package ownership

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// A text of an error that exceeds the message limit, even shortened, is replaced. Without an
// outcome its key would wait for ever.
func TestErrorTextThatIsTooLong(t *testing.T) {
	inWorldWith(t, 1024, func(t *testing.T, w *world) {
		w.fails = errors.New(strings.Repeat("x", 2000))
		w.publish(6, 2)
		a := w.join("a", 1)
		synctest.Wait()
		b := w.join("b", 4)
		w.await()
		a.drain()
		b.drain()
		seen := 0
		for _, err := range w.failures {
			if f, ok := errors.AsType[*settle.Failure](err); ok {
				seen++
				if !strings.Contains(f.Text, "too long to be sent") {
					t.Errorf("the owner sees %q", f.Text)
				}
			}
		}
		if seen == 0 {
			t.Errorf("the owner sees none of the member's %d failures", b.Begun())
		}
	})
}

// An owner may assign a message to a member that has not read the reply to its first
// heartbeat. The member refuses it at once; else the owner would wait for a TTL.
func TestAssignmentBeforeTheReply(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		l := w.dial(nil)
		defer l.Close()
		epoch, err := (&store{subjects: names, link: l}).acquireLease(t.Context(), lease{Member: "owner", TTL: ttl}, 0)
		must(t, err)
		given, refused := false, make(chan time.Time, 1)
		owner, err := l.Conn().Subscribe("$OMNIBUS.crew.S.d.lead.1", func(m *nats.Msg) {
			switch {
			case strings.Contains(string(m.Data), `"returned":true`):
				refused <- time.Now()
			case !given:
				given = true
				d := &wire.Delivery{In: wire.In{Subject: "a"}, Stored: &wire.Stored{Stream: "S", Sequence: 1, Deliveries: 1, Attempt: 1, Time: time.Now()}}
				job := encodeAssignment(d, "$OMNIBUS.crew.S.d.run.b", "inbox", assignmentID{Epoch: epoch, Number: 1, Key: "a"})
				w.fail(l.Publish(&job))
				time.Sleep(time.Second) // it has it now
			}
			w.fail(m.Respond([]byte(`{"ok":true}`)))
		})
		must(t, err)
		began := time.Now()
		b := w.join("b", 1)
		time.Sleep(3 * time.Second)
		select {
		case at := <-refused:
			if took := at.Sub(began); took > 2*time.Second {
				t.Errorf("it was refused after %v", took)
			}
		default:
			t.Error("it was not refused")
		}
		must(t, errors.Join(append(w.failures, owner.Unsubscribe())...))
		b.drain()
	})
}
