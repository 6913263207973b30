package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// switchPhases are where a process or a target can die, in their order. "chunk" is in the
// middle of a copy. From Connect on the switch is committed.
var switchPhases = []switchover.Phase{switchover.Hold, switchover.Cut, switchover.Copy, "chunk", switchover.Verify,
	switchover.Commit, switchover.Connect, switchover.Release, switchover.Settle}

func isCommitted(p switchover.Phase) bool {
	return slices.Index(switchPhases, p) >= slices.Index(switchPhases, switchover.Connect)
}

// livePhases are where a process or a target can die that copies a large stream.
var livePhases = []switchover.Phase{switchover.Precopy, "precopy chunk", "end of a live copy", "verify a live copy"}

// inPhases runs a test for each phase. A bus waits tens of seconds for a target that goes away in some of
// them. So these tests run one after another until they have called gone, which they do when the target
// goes away. From then on they run at once, on one of the places that parallel tests share.
func inPhases(t *testing.T, prefix string, phases []switchover.Phase, test func(t *testing.T, phase switchover.Phase, gone func())) {
	var all sync.WaitGroup
	var turn sync.Mutex
	for _, phase := range phases {
		all.Go(func() {
			t.Run(prefix+string(phase), func(t *testing.T) {
				turn.Lock()
				gone := sync.OnceFunc(turn.Unlock)
				t.Cleanup(gone)
				test(t, phase, gone)
			})
		})
	}
	all.Wait()
}

// reached reports whether a switch has come to a phase.
func reached(p switchover.Progress, phase switchover.Phase) bool {
	switch phase {
	case "chunk":
		return p.Phase == switchover.Copy && p.Bytes > 0
	case "precopy chunk":
		return p.Phase == switchover.Precopy && p.Bytes > 0
	case "end of a live copy":
		return p.Phase == switchover.Copy
	case "verify a live copy":
		return p.Phase == switchover.Verify
	}
	return p.Phase == phase
}

// enlarge stores negative numbers with much white space, so that the stream is copied while
// publishers go on.
func enlarge(t *testing.T, b *bus.Bus) {
	t.Helper()
	for n := 1; n <= many; n++ {
		white := make([]byte, 5000) // about 1 KB in a snapshot
		for i := range white {
			white[i] = " \t\r\n"[rand.IntN(4)]
		}
		payload := fmt.Appendf(nil, "%s%100000d", white, -1000-n)
		_, err := b.JetStream().Publish(t.Context(), "s.fill", payload)
		must(t, err)
	}
}

// positive returns the numbers that are more than zero.
func positive(all []int) []int {
	return slices.DeleteFunc(all, func(n int) bool { return n <= 0 })
}

const (
	envPhase  = "BUS_TEST_PHASE"
	envTarget = "BUS_TEST_TARGET"
)

// switchUntilKilled has a process switch that dies in a phase, and returns which messages it said
// were acknowledged and handled. Other lines are for others.
func switchUntilKilled(t *testing.T, dir string, phase switchover.Phase, target string, others func(line string)) (acked, handled map[int]bool) {
	t.Helper()
	acked, handled = make(map[int]bool), make(map[int]bool)
	startVictim(t, dir, envPhase+"="+string(phase), envTarget+"="+target).kill(t, func(line string) bool {
		var n int
		switch {
		case scanned(line, "acked %d", &n):
			acked[n] = true
		case scanned(line, "handled %d", &n):
			handled[n] = true
		default:
			others(line)
		}
		return true
	})
	if len(acked) < 100 {
		t.Fatalf("only %d messages were acknowledged", len(acked))
	}
	return acked, handled
}

// A process that is killed in a phase of a switch has lost nothing: the next start finds all
// messages, before the commit here and after it at the target. Each is handled. Before the
// commit the next switch deletes what the first one left.
func TestKilledWhileSwitching(t *testing.T) {
	t.Parallel()
	for _, phase := range slices.Concat(switchPhases, livePhases) {
		t.Run(string(phase), func(t *testing.T) {
			if dir := victimDir(t); dir != "" {
				switchAndDie(t, dir)
				return
			}
			t.Parallel()
			target, dir := newTarget(t), t.TempDir()
			acked, handled := switchUntilKilled(t, dir, phase, target.ClientURL(), func(string) {})
			afterKill(t, dir, isCommitted(phase), acked, handled, func(b *bus.Bus) { switchTo(t, b, target.ClientURL()) })
		})
	}
}

// The same with a cluster, which elects leaders for streams before it gets them. Until the settle phase
// has ended it has one copy of the data.
func TestKilledWhileSwitchingToACluster(t *testing.T) {
	needsCluster(t)
	t.Parallel()
	for _, phase := range []switchover.Phase{switchover.Hold, switchover.Copy, switchover.Verify, switchover.Commit, switchover.Connect, switchover.Settle} {
		t.Run("cluster, "+string(phase), func(t *testing.T) {
			if dir := victimDir(t); dir != "" {
				switchAndDie(t, dir)
				return
			}
			t.Parallel()
			_, urls := servers(t, 3)
			dir := t.TempDir()
			acked, handled := switchUntilKilled(t, dir, phase, urls, func(string) {})
			afterKill(t, dir, isCommitted(phase), acked, handled, func(b *bus.Bus) { switchToElecting(t, b, urls) })
		})
	}
}

// switchToElecting switches to servers that may be about to elect leaders.
func switchToElecting(t *testing.T, b *bus.Bus, urls string) {
	t.Helper()
	within(t, time.Minute, "the cluster answers again and the bus switches", func() bool {
		_, err := b.SwitchTo(t.Context(), urls, switchover.MaxWait(20*time.Second))
		if _, elects := errors.AsType[*switchover.ObstacleError](err); !elects {
			must(t, err)
		}
		return err == nil
	})
}

// switchAndDie is the child: it stores and handles messages, and kills itself in a phase of
// its switch.
func switchAndDie(t *testing.T, dir string) {
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	var mu sync.Mutex
	handle := func(_ context.Context, m *bus.Msg[int]) error {
		mu.Lock()
		defer mu.Unlock()
		say("handled %d", m.Data)
		return nil
	}
	consume(t, st, "c", "s.*", handle, bus.KeyBySubject(), bus.AckWait(2*time.Second))
	var publishers sync.WaitGroup
	begun := make(chan struct{})
	for p := range 4 {
		publishers.Go(func() {
			for n := p; ; n += 4 {
				if _, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.%d", p)), n); err != nil {
					return
				}
				mu.Lock()
				say("acked %d", n)
				mu.Unlock()
				if n == 120 {
					close(begun)
				}
			}
		})
	}
	receive(t, begun)
	phase := switchover.Phase(os.Getenv(envPhase))
	if slices.Contains(livePhases, phase) {
		enlarge(t, b)
	}
	_, err := b.SwitchTo(t.Context(), os.Getenv(envTarget), switchover.MaxWait(time.Minute), switchover.CopyRate(512<<10), switchover.OnProgress(func(p switchover.Progress) {
		if reached(p, phase) {
			dieNow()
		}
	}))
	t.Fatalf("the process lives: %v", err)
}

// dieNow kills the process.
func dieNow() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		_ = self.Kill()
	}
	select {} // until the kill arrives
}

// afterKill opens the directory of a killed process and looks for its messages.
// If the switch was not committed, the bus does it again.
func afterKill(t *testing.T, dir string, committed bool, acked, handled map[int]bool, again func(*bus.Bus)) {
	t.Helper()
	b := openOn(t, dir, bus.WithTimeout(time.Minute))
	if r := healthy(t, b); r.Embedded == committed {
		t.Errorf("Embedded = %v", r.Embedded)
	}
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	got := make(chan int, 100_000)
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil }, bus.KeyBySubject(), bus.AckWait(2*time.Second))
	mustHaveAll(t, st, acked)
	if !committed {
		again(b)
		mustHaveAll(t, st, acked)
	}
	for n := range acked {
		for !handled[n] {
			select {
			case m := <-got:
				handled[m] = true
			case <-time.After(stuck + 40*time.Second): // more than AckWait: what the child held comes after that
				t.Fatalf("%d was not handled", n)
			}
		}
	}
	if config := streamInfo(t, b, "S").Config; config.Metadata["_omnibus.moving"] != "" {
		t.Errorf("the stream still has the mark: %v", config.Metadata)
	}
	storeNumbers(t, st, -10, -1)
}

// A stream that is created while another one is copied belongs to the switch: a process that is
// killed later has it in its journal, and after the commit its copy counts.
func TestKilledWithAStreamThatCameMeanwhile(t *testing.T) {
	t.Parallel()
	for file, phase := range map[string]switchover.Phase{"switch.json": switchover.Verify, "omnibus.json": switchover.Connect} {
		t.Run(string(phase), func(t *testing.T) {
			if dir := victimDir(t); dir != "" {
				createAndDie(t, dir, phase)
				return
			}
			t.Parallel()
			target, dir := newTarget(t), t.TempDir()
			startVictim(t, dir, envTarget+"="+target.ClientURL()).kill(t, func(string) bool { return true })
			if data, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(data), "LATE") {
				t.Errorf("%s has %s, %v", file, data, err)
			}
			b := openOn(t, dir)
			if r := healthy(t, b); r.Embedded == isCommitted(phase) {
				t.Errorf("Embedded = %v", r.Embedded)
			}
			if !isCommitted(phase) {
				switchTo(t, b, target.ClientURL())
			}
			if info := streamInfo(t, b, "LATE"); info.State.Msgs != 1 || info.Config.Metadata["_omnibus.moving"] != "" {
				t.Errorf("the stream has %+v, %v", info.State, info.Config.Metadata)
			}
		})
	}
}

// createAndDie is the child: it creates a stream while it copies another, and kills itself in a
// phase.
func createAndDie(t *testing.T, dir string, phase switchover.Phase) {
	b := openOn(t, dir)
	declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	enlarge(t, b)
	var once sync.Once
	_, err := b.SwitchTo(t.Context(), os.Getenv(envTarget), switchover.MaxWait(time.Minute), switchover.CopyRate(512<<10), switchover.OnProgress(func(p switchover.Progress) {
		if reached(p, "precopy chunk") {
			once.Do(func() {
				must(t, second(b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "LATE"})))
				must(t, second(b.JetStream().Publish(t.Context(), "LATE", nil)))
			})
		}
		if reached(p, phase) {
			dieNow()
		}
	}))
	t.Fatalf("the process lives: %v", err)
}

// mustHaveAll checks that a stream has all acknowledged messages, each once.
func mustHaveAll(t *testing.T, st *bus.Stream, acked map[int]bool) {
	t.Helper()
	have := make(map[int]int)
	for _, n := range storedNumbers(t, st) {
		have[n]++
	}
	for n := range acked {
		if have[n] != 1 {
			t.Fatalf("%d is %d times in the stream", n, have[n])
		}
	}
}

// A target that dies in a phase of the switch loses nothing. Before the commit the bus goes on
// where it was, and switches when the target is back. After the commit it goes on at the
// target when that is back.
func TestTargetKilledWhileSwitching(t *testing.T) {
	t.Parallel()
	inPhases(t, "", slices.Concat(switchPhases, livePhases), switchToKilled)
}

// switchToKilled switches to a server that is killed in a phase.
func switchToKilled(t *testing.T, phase switchover.Phase, gone func()) {
	all, urls := servers(t, 1)
	target := all[0]
	b := openOn(t, t.TempDir())
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 100)
	if slices.Contains(livePhases, phase) {
		enlarge(t, b)
	}
	var once sync.Once
	_, err := b.SwitchTo(t.Context(), urls, switchover.MaxWait(3*time.Second), switchover.CopyRate(512<<10), switchover.OnProgress(func(p switchover.Progress) {
		if reached(p, phase) {
			once.Do(target.end)
			gone()
		}
	}))
	failed, ok := errors.AsType[*switchover.Error](err)
	committed := err == nil || ok && failed.Committed
	if phase != switchover.Settle && phase != switchover.Release && !ok || committed != (isCommitted(phase) || phase == switchover.Commit) {
		t.Fatalf("SwitchTo = %v", err) // the target is not asked any more when it dies in Commit
	}
	if !committed {
		storeNumbers(t, st, 101, 110)
	}
	target.start()
	if !committed {
		switchTo(t, b, urls)
	}
	eventually(t, "the bus is at the target", b.Conn().IsConnected)
	first := 111
	if committed {
		first = 101
	}
	storeNumbers(t, st, first, 120)
	if got := positive(storedNumbers(t, st)); !slices.Equal(got, oneTo(120)) {
		t.Errorf("the stream has %v", got)
	}
	if strings.Contains(b.ClientURL(), "embedded") || healthy(t, b).Embedded {
		t.Errorf("the bus is at %s", b.ClientURL())
	}
}

// A server of a cluster that dies in the middle of a switch does no harm: the switch
// goes on, or leads back and can be tried again.
func TestClusterLosesAServerWhileSwitching(t *testing.T) {
	needsCluster(t)
	t.Parallel()
	phases := []switchover.Phase{switchover.Precopy, switchover.Hold, "chunk", switchover.Verify, switchover.Commit, switchover.Connect, switchover.Release, switchover.Settle}
	inPhases(t, "", phases, func(t *testing.T, phase switchover.Phase, gone func()) {
		switchToLosing(t, phase, slices.Index(phases, phase)%3, gone)
	})
}

// leaderOf returns which of the servers leads a stream.
func leaderOf(t *testing.T, js jetstream.JetStream, all []*serverProcess, stream string) int {
	t.Helper()
	st, err := js.Stream(t.Context(), stream)
	must(t, err)
	leader := st.CachedInfo().Cluster.Leader
	return slices.IndexFunc(all, func(p *serverProcess) bool { return p.c.Name == leader })
}

// switchToLosing switches to a cluster of which a server is killed in a phase: in Commit the one that leads the
// stream, which alone may have its messages then.
func switchToLosing(t *testing.T, phase switchover.Phase, lost int, gone func()) {
	all, urls := servers(t, 3)
	dir := t.TempDir()
	b := openOn(t, dir, bus.WithTimeout(time.Minute)) // it may elect leaders
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeNumbers(t, st, 1, 100)
	js := clientOf(t, urls)
	_, err := b.SwitchTo(t.Context(), urls, switchover.MaxWait(20*time.Second), at(phase, func() {
		if phase == switchover.Commit {
			lost = leaderOf(t, js, all, "S")
		}
		all[lost].end()
		gone()
	}))
	failed, ok := errors.AsType[*switchover.Error](err)
	if err != nil && !ok {
		t.Fatal(err)
	}
	t.Logf("SwitchTo = %v", err)
	last := 100
	if committed := err == nil || failed.Committed; committed {
		all[lost].start()
	} else {
		mustGoOn(t, b, st, err, last)
		last += 10
		all[lost].start()
		awaitServers(t, urls, 3)
		switchToElecting(t, b, urls)
	}
	within(t, time.Minute, "the stream has a leader", func() bool {
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[int]("s.0"), last+1, bus.MsgID("first"))
		return err == nil
	})
	storeNumbers(t, st, last+2, 120)
	must(t, b.Close())
	b = openOn(t, dir, bus.WithTimeout(time.Minute))
	if healthy(t, b).Embedded {
		t.Error("after the commit a restart leads back")
	}
	if got := storedNumbers(t, lookUp(t, b, "S")); !slices.Equal(got, oneTo(120)) {
		t.Errorf("the stream has %v", got)
	}
}
