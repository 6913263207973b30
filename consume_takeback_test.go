package bus_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
)

// holdUntilKilled is the child: it stores messages and never finishes those that it begins.
func holdUntilKilled(t *testing.T, dir string, opts []bus.ConsumeOption) {
	b := openOn(t, dir)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	storeKeys(t, st, 10, 100)
	consume(t, st, "c", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Sequence%17 == 0 { // the floor of what is done stays low
			spin(300 * time.Millisecond) // so that the server has written down what it sent, see ADR 16
			say("held %d", m.Sequence)
			select {}
		}
		return nil
	}, append(opts, bus.Concurrency(40), bus.AckWait(time.Minute))...)
	select {}
}

// On an embedded server that no other process can reach, a process that was killed holds
// nothing: the next one gets its messages at once, not after AckWait, and in the order of
// their keys.
func TestRestartAfterKill(t *testing.T) {
	t.Parallel()
	for name, opts := range inBothWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if dir := victimDir(t); dir != "" {
				holdUntilKilled(t, dir, opts)
			}
			dir, held := t.TempDir(), 0
			startVictim(t, dir).kill(t, func(string) bool {
				held++
				return held < 5
			})
			restartAndHandleAll(t, dir, opts, true)
		})
	}
}

// restartAndHandleAll consumes what a killed process left. With held it had messages.
func restartAndHandleAll(t *testing.T, dir string, opts []bus.ConsumeOption, held bool) {
	b := openOn(t, dir)
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	stored := streamInfo(t, b, "S").State.LastSeq
	var mu sync.Mutex
	again, last := 0, make(map[string]uint64)
	began := time.Now()
	var first time.Duration
	handle := func(_ context.Context, m *bus.Msg[int]) error {
		mu.Lock()
		defer mu.Unlock()
		if first == 0 {
			first = time.Since(began)
		}
		if m.Deliveries > 1 {
			again++
		}
		if opts != nil && m.Sequence <= last[m.Subject] {
			t.Errorf("%s: message %d came after %d", m.Subject, m.Sequence, last[m.Subject])
		}
		last[m.Subject] = m.Sequence
		return nil
	}
	consume(t, st, "c", "s.*", handle, append(opts, bus.Concurrency(40), bus.AckWait(time.Minute))...)
	awaitAll(t, b, "S", "c")
	took := time.Since(began)
	must(t, b.Close())
	mu.Lock()
	defer mu.Unlock()
	if held && again == 0 || first > time.Duration(underRace(5, 1))*time.Second || took > 30*time.Second {
		t.Errorf("%d messages were redelivered, the first message came after %v, all were handled after %v", again, first, took)
	}
	t.Logf("%d messages, %d redelivered, the first after %v, all after %v", stored, again, first, took)
}
