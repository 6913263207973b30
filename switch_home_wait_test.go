package bus_test

import (
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
