package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// Another program that begins to take messages while streams come home is noticed, whenever that
// is: it gets an error itself, or the bus goes back. Nothing is lost, and nothing is handled twice
// by the bus.
func TestSwitchHomeWhileOthersBeginToTakePart(t *testing.T) {
	t.Parallel()
	const last = 700 // more than the bus asks for
	library := func(t *testing.T, url string) error {
		other, err := bus.Connect(t.Context(), url, bus.WithLogger(silent()))
		must(t, err)
		t.Cleanup(func() { must(t, other.Close()) })
		st, err := other.LookupStream(t.Context(), "S")
		must(t, err)
		c, err := bus.Consume(t.Context(), st, "c", bus.Subject[int]("s.*"), func(context.Context, *bus.Msg[int]) error { return nil })
		if err == nil {
			eventually(t, "it asks for messages", func() bool { return infoOf(t, other.JetStream(), "S", "c").NumWaiting > 0 })
			t.Cleanup(func() { must(t, c.Drain(context.Background())) })
		}
		return err
	}
	raw := func(t *testing.T, url string) error {
		c, err := clientOf(t, url).Consumer(t.Context(), "S", "c")
		must(t, err)
		m, err := c.Next()
		if err == nil {
			err = m.Nak()
		}
		return err
	}
	for name, c := range map[string]struct {
		phase switchover.Phase
		begin func(t *testing.T, url string) error
		moved bool // the other program gets the error
	}{
		"before the fence":          {switchover.Fence, library, false},
		"after the fence":           {switchover.Cut, library, true},
		"before the commit":         {switchover.Commit, library, true},
		"without this library":      {switchover.Verify, raw, false},
		"that long before a commit": {switchover.Commit, raw, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := newTarget(t)
			b := elsewhere(t, target.ClientURL(), bus.WithTimeout(time.Minute))
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			got, room := make(chan int, 2*last), make(chan struct{}, 1)
			room <- struct{}{}
			consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
				<-room
				got <- m.Data
				return nil
			}, bus.Concurrency(1))
			storeNumbers(t, st, 1, last)
			receive(t, got)
			var begun error
			_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(time.Minute), switchover.OnProgress(func(p switchover.Progress) {
				if p.Phase == c.phase {
					begun = c.begin(t, target.ClientURL())
				}
			}))
			if c.moved {
				must(t, err)
				asError[*switchover.StreamMovedError](t, begun, `stream "S"`)
			} else {
				must(t, begun)
				asError[*switchover.Error](t, err, "another program takes messages of consumer c of stream S", "the bus is where it was")
			}
			close(room)
			handled := map[int]bool{1: true}
			for len(handled) < last && c.phase != switchover.Fence { // else the other program has some
				n := receive(t, got)
				if handled[n] {
					t.Errorf("%d was handled again", n)
				}
				handled[n] = true
			}
			var all []int
			for _, m := range replayed(t, st, bus.Subject[int]("s.*")) {
				all = append(all, m.Data)
			}
			if len(all) != last {
				t.Errorf("the stream has %v", all)
			}
		})
	}
}
