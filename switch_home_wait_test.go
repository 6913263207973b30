package bus_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// Publishers do not wait for an embedded server that takes long to start again: the bus goes back
// when MaxWait is over.
func TestSwitchHomeWithALongRestart(t *testing.T) {
	t.Parallel()
	var starts atomic.Int32
	release := make(chan struct{})
	b := elsewhere(t, newTarget(t).ClientURL(), bus.WithTimeout(time.Minute), bus.WithServerOptions(func(*server.Options) {
		if starts.Add(1) == 2 {
			<-release
		}
	}))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	failed := make(chan error, 1)
	go func() {
		_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(time.Second))
		failed <- err
	}()
	eventually(t, "the server starts again", func() bool { return starts.Load() == 2 })
	storeNumbers(t, st, 1, 10) // the first waits until the bus is back
	close(release)
	asError[*switchover.Error](t, receive(t, failed), "still being started again", "MaxWait", "the bus is where it was")
	goHome(t, b)
	storeNumbers(t, st, 11, 20)
}

// A server that is away when a switch home goes back gets the subjects of its streams back when it is
// there again. Nobody has to do anything for that.
func TestSwitchHomeGivesSubjectsBackLater(t *testing.T) {
	t.Parallel()
	all, urls := servers(t, 1)
	b := elsewhere(t, urls, bus.WithTimeout(time.Minute))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 10)
	_, err := b.SwitchTo(t.Context(), switchover.Embedded, switchover.MaxWait(time.Second), switchover.OnProgress(func(p switchover.Progress) {
		if p.Phase == switchover.Cut {
			all[0].end()
		}
	}))
	asError[*switchover.Error](t, err, "[S] did not get their subjects back within 1s", "the bus goes on to try it")
	all[0].start()
	within(t, time.Minute, "the stream has its subjects", func() bool {
		return b.Conn().IsConnected() && slices.Equal(streamInfo(t, b, "S").Config.Subjects, []string{"s.*"})
	})
	storeNumbers(t, st, 11, 20)
	goHome(t, b)
	if got := storedNumbers(t, st); !slices.Equal(got, oneTo(20)) {
		t.Errorf("the stream has %v", got)
	}
}
