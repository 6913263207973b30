package bus_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// A process that is killed just before its commit, or on the way back from a switch that has failed, has
// lost nothing. The next start is here, and the next switch deletes what is left at the target.
func TestKilledOnTheWayBack(t *testing.T) {
	t.Parallel()
	for name, die := range map[string]func(t *testing.T, b *bus.Bus, dir string){
		"after the message IDs, before the commit": dieWithIDs,
		"when the bus is connected again":          dieConnected,
		"while copies are deleted":                 dieWhileDeleting,
	} {
		t.Run(name, func(t *testing.T) {
			if dir := victimDir(t); dir != "" {
				failAndDie(t, dir, die)
				return
			}
			t.Parallel()
			target, dir := newTarget(t), t.TempDir()
			acked, handled := switchUntilKilled(t, dir, "", target.ClientURL(), func(string) {})
			must(t, os.RemoveAll(inTheWay(dir)))
			afterKill(t, dir, false, acked, handled, func(b *bus.Bus) { switchTo(t, b, target.ClientURL()) })
		})
	}
}

// inTheWay is what keeps the child from its commit.
func inTheWay(dir string) string { return filepath.Join(dir, "omnibus.json.tmp") }

// failAndDie is the child: it stores and handles messages, and cannot commit its switch. die kills it when
// the switch has come that far.
func failAndDie(t *testing.T, dir string, die func(t *testing.T, b *bus.Bus, dir string)) {
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	var mu sync.Mutex
	tell := func(what string, n int) {
		mu.Lock()
		defer mu.Unlock()
		say("%s %d", what, n)
	}
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error { tell("handled", m.Data); return nil }, bus.KeyBySubject(), bus.AckWait(2*time.Second))
	for n := range 200 {
		must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.%d", n%4)), n, bus.AutoID())))
		tell("acked", n)
	}
	must(t, os.MkdirAll(filepath.Join(inTheWay(dir), "full"), 0o700))
	_, err := b.SwitchTo(t.Context(), os.Getenv(envTarget), switchover.MaxWait(time.Minute), at(switchover.Commit, func() { die(t, b, dir) }))
	t.Fatalf("the process lives: %v", err)
}

// dieWithIDs kills the process as soon as the store directory has the message IDs.
func dieWithIDs(_ *testing.T, _ *bus.Bus, dir string) {
	go func() { // ends with the process
		for {
			if _, err := os.Stat(filepath.Join(dir, "switch.ids")); err == nil {
				dieNow()
			}
		}
	}()
}

// dieConnected kills the process when the bus is connected to its own server again.
func dieConnected(_ *testing.T, b *bus.Bus, _ string) {
	connected := b.Conn().StatusChanged(nats.CONNECTED)
	go func() { // ends with the process
		<-connected
		dieNow()
	}()
}

// dieWhileDeleting kills the process when the target has deleted the first copy.
func dieWhileDeleting(t *testing.T, _ *bus.Bus, _ string) {
	nc := clientOf(t, os.Getenv(envTarget)).Conn()
	must(t, second(nc.Subscribe("$JS.EVENT.ADVISORY.STREAM.DELETED.>", func(*nats.Msg) { dieNow() })))
	flushRaw(t, nc)
}
