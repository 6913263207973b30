package ownership

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

// An assignment to a busy member is not lost because the member sends two heartbeats before
// it reads the assignment. Else two processes would run one key.
func TestAssignmentThatIsReadLate(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		l := w.dial(nil)
		defer l.Close()
		w.publish(2, 1)
		a := w.join("a", 1)
		synctest.Wait() // it has one of the two
		given := 0
		late, err := l.Conn().Subscribe("$OMNIBUS.crew.S.d.run.late", func(*nats.Msg) { given++ })
		must(t, err)
		beat := func() {
			_, err := l.Conn().RequestWithContext(t.Context(), "$OMNIBUS.crew.S.d.lead.1", []byte(`{"beat":{"member":"late","hands":1,"running":[]}}`))
			must(t, err)
			synctest.Wait()
		}
		for range 4 { // as a member does that hears news, or that a message was refused
			beat()
		}
		if given != 1 || a.Begun() != 1 {
			t.Errorf("the member was given %d messages, and the owner has begun %d, want 1 and 1", given, a.Begun())
		}
		for range 8 {
			time.Sleep(ttl / 4)
			beat()
		}
		if given+int(a.Begun()) != 3 {
			t.Errorf("the lost message was not given out once more: %d, %d", given, a.Begun())
		}
		must(t, late.Unsubscribe())
		w.await()
		a.drain()
	})
}
