//go:build unix

package bus_test

import (
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// A target that does not answer any more in a phase of the switch loses nothing. Before the commit the bus goes on where it was while
// the target is still silent, and switches when it answers again. After the commit it goes on
// at the target then.
func TestTargetFrozenWhileSwitching(t *testing.T) {
	t.Parallel()
	inPhases(t, "", slices.Concat([]switchover.Phase{switchover.Preflight}, switchPhases, livePhases), func(t *testing.T, phase switchover.Phase, gone func()) {
		switchToFrozen(t, 1, phase, gone)
	})
}

// The same with a cluster, of which every server is frozen.
func TestClusterFrozenWhileSwitching(t *testing.T) {
	t.Parallel()
	inPhases(t, "cluster, ", []switchover.Phase{switchover.Copy, switchover.Verify, switchover.Connect, switchover.Settle}, func(t *testing.T, phase switchover.Phase, gone func()) {
		needsCluster(t)
		switchToFrozen(t, 3, phase, gone)
	})
}

// switchToFrozen switches to servers that are frozen in a phase.
func switchToFrozen(t *testing.T, n int, phase switchover.Phase, gone func()) {
	all, urls := servers(t, n)
	freeze := func() {
		for _, p := range all {
			var state syscall.WaitStatus
			must(t, p.cmd.Process.Signal(syscall.SIGSTOP))
			must(t, second(syscall.Wait4(p.cmd.Process.Pid, &state, syscall.WUNTRACED, nil))) // until it stands still
		}
	}
	dir := t.TempDir()
	b := openOn(t, dir, bus.WithTimeout(time.Minute)) // a cluster may elect leaders
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 100)
	if slices.Contains(livePhases, phase) {
		enlarge(t, b)
	}
	var once sync.Once
	began := time.Now()
	report, err := b.SwitchTo(t.Context(), urls, switchover.MaxWait(time.Second), switchover.CopyRate(512<<10), switchover.OnProgress(func(p switchover.Progress) {
		if reached(p, phase) {
			once.Do(freeze)
			gone()
		}
	}))
	t.Logf("%v, waited %v: %v", time.Since(began), report.Waited, err)
	failed, _ := errors.AsType[*switchover.Error](err)
	committed := err == nil || failed != nil && failed.Committed
	if committed != (isCommitted(phase) || phase == switchover.Commit) {
		t.Fatalf("SwitchTo = %v", err)
	}
	if took := time.Since(began); phase == switchover.Settle && took > 25*time.Second {
		t.Errorf("SwitchTo returned after %v", took)
	}
	if report.Waited > 10*time.Second || !committed && report.Waited > 1500*time.Millisecond {
		t.Errorf("publishers waited for %v", report.Waited)
	}
	last := 100
	if !committed {
		storeNumbers(t, st, 101, 110)
		last = 110
	}
	for _, p := range all {
		must(t, p.cmd.Process.Signal(syscall.SIGCONT))
	}
	if !committed {
		awaitServers(t, urls, n)
		within(t, time.Minute, "the target takes the streams", func() bool {
			_, err := b.SwitchTo(t.Context(), urls, switchover.MaxWait(time.Minute))
			if _, elects := errors.AsType[*switchover.ObstacleError](err); elects {
				return false
			}
			must(t, err)
			return true
		})
	}
	eventually(t, "the bus is at the target", func() bool { return b.Conn().IsConnected() && !healthy(t, b).Embedded })
	for n := last + 1; n <= 120; n++ { // a leader that has just lost an election acknowledges nothing
		must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[int]("s.0"), n, bus.AutoID())))
	}
	if got := positive(storedNumbers(t, st)); !slices.Equal(got, oneTo(120)) {
		t.Errorf("the stream has %v", got)
	}
	must(t, b.Close())
	if got := positive(storedNumbers(t, lookUp(t, openOn(t, dir), "S"))); !slices.Equal(got, oneTo(120)) {
		t.Errorf("after a restart the stream has %v", got)
	}
}
