package bus_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// at calls do once, when a switch has come to a phase.
func at(phase switchover.Phase, do func()) switchover.Option {
	var once sync.Once
	return switchover.OnProgress(func(p switchover.Progress) {
		if reached(p, phase) {
			once.Do(do)
		}
	})
}

// incompressible returns n random bytes.
func incompressible(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // never fails
	return data
}

// mustGoOn checks that a switch went back, and that the bus goes on where it was with all messages.
func mustGoOn(t *testing.T, b *bus.Bus, st *bus.Stream, err error, n int, texts ...string) {
	t.Helper()
	if e := asError[*switchover.Error](t, err, append(texts, "the bus is where it was, with all messages")...); e.Committed {
		t.Errorf("it is committed: %v", err)
	}
	storeNumbers(t, st, n+1, n+10)
	if got := storedNumbers(t, st); !slices.Equal(got, oneTo(n+10)) {
		t.Errorf("the stream has %v", got)
	}
	if r := healthy(t, b); !r.Embedded {
		t.Error("the bus is not embedded any more")
	}
}

// A target whose room is used up during the copy makes the switch go back. Nothing is left there,
// and when there is room again the switch works. With the race detector this also fails if streams
// are made at the same time at a server alone, see switchover.turn.
func TestSwitchToFullTarget(t *testing.T) {
	t.Parallel()
	for _, phase := range []switchover.Phase{switchover.Copy, "chunk"} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			target := newTarget(t, func(o *server.Options) { o.JetStreamMaxStore = 8 << 20 })
			there := clientOf(t, target.ClientURL())
			b := openOn(t, t.TempDir(), bus.WithSync(bus.SyncEvery(time.Minute)))
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			storeNumbers(t, st, 1, 10)
			for i := range 24 { // more streams than are copied at the same time
				large := declare(t, b, bus.StreamConfig{Name: fmt.Sprintf("LARGE%d", i), Subjects: []string{fmt.Sprintf("large.%d", i)}})
				for range 10 {
					must(t, second(bus.PublishTo(t.Context(), large, bus.Subject[[]byte](fmt.Sprintf("large.%d", i)), incompressible(25_000))))
				}
			}
			_, err := b.SwitchTo(t.Context(), target.ClientURL(), switchover.MaxWait(time.Minute), at(phase, func() {
				_, err := there.CreateStream(t.Context(), jetstream.StreamConfig{Name: "GREEDY", MaxBytes: 8<<20 - 1<<17})
				if err != nil {
					t.Error(err)
				}
			}))
			mustGoOn(t, b, st, err, 10, "copy of stream LARGE", "insufficient storage resources available; make room there")
			if names := streamNames(t, there); !slices.Equal(names, []string{"GREEDY"}) {
				t.Errorf("the target has %v", names)
			}
			must(t, there.DeleteStream(t.Context(), "GREEDY"))
			switchTo(t, b, target.ClientURL())
			storeNumbers(t, st, 21, 30)
			if got := storedNumbers(t, st); !slices.Equal(got, oneTo(30)) {
				t.Errorf("the stream has %v", got)
			}
		})
	}
}

// A file of the store directory that cannot be written makes the switch go back, and the next
// start is embedded.
func TestSwitchToWithoutItsFiles(t *testing.T) {
	t.Parallel()
	for file, phase := range map[string]string{"switch.json": "preflight", "switch.ids": "commit", "omnibus.json": "commit"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			target, dir := newTarget(t), t.TempDir()
			b := openOn(t, dir)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			storeNumbers(t, st, 1, 9)
			must(t, second(bus.PublishTo(t.Context(), st, bus.Subject[int]("s.1"), 10, bus.MsgID("x"))))
			blocked := filepath.Join(dir, file+".tmp")
			must(t, os.MkdirAll(filepath.Join(blocked, "in the way"), 0o700))
			_, err := b.SwitchTo(t.Context(), target.ClientURL(), switchover.MaxWait(time.Minute))
			mustGoOn(t, b, st, err, 10, "write "+file, fmt.Sprintf("in the phase %q", phase))
			if names := streamNames(t, clientOf(t, target.ClientURL())); len(names) > 0 {
				t.Errorf("the target has %v", names)
			}
			must(t, os.RemoveAll(blocked))
			must(t, b.Close())
			b = openOn(t, dir)
			st = lookUp(t, b, "S")
			if got := storedNumbers(t, st); !slices.Equal(got, oneTo(20)) {
				t.Errorf("after a restart the stream has %v", got)
			}
			switchTo(t, b, target.ClientURL())
			storeNumbers(t, st, 21, 30)
			if left, _ := filepath.Glob(filepath.Join(dir, "switch.json*")); len(left) > 0 || strings.Contains(b.ClientURL(), "embedded") {
				t.Errorf("%v is left; the bus is at %s", left, b.ClientURL())
			}
		})
	}
}
