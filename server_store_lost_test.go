package bus_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
)

// A store directory that is lost while it is open is noticed, and nothing is said to be
// stored any more.
func TestStoreDirIsLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(dir string) error{
		"LOCK removed":      func(dir string) error { return os.Remove(filepath.Join(dir, "LOCK")) },
		"directory removed": os.RemoveAll,
		"directory moved":   func(dir string) error { return os.Rename(dir, dir+"-moved") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "store")
			events := make(chan event.Event, 100)
			b, err := quietBus(bus.WithStoreDir(dir), bus.WithEvents(func(e event.Event) { events <- e }))
			must(t, err)
			defer func() { _ = b.Close() }()
			const s bus.Subject[int] = "s.x"
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			must(t, second(bus.PublishTo(t.Context(), st, s, 1)))
			if err := lose(dir); err != nil {
				t.Skipf("SKIPPED: this system does not allow that: %v", err)
			}
			began := time.Now()
			for {
				e := receive(t, events)
				if lost, ok := e.Err.(*bus.StoreError); ok && e.Kind == event.ServerError && lost.Problem == bus.StoreUnusable {
					break
				}
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("noticed after %v", took)
			}
			for call, err := range map[string]error{
				"PublishTo":      second(bus.PublishTo(t.Context(), st, s, 2)),
				"PublishToAsync": second(bus.PublishToAsync(t.Context(), st, s, 2)),
				"PublishToBatch": second(bus.PublishToBatch(t.Context(), st, bus.ItemOf(s, 2))),
			} {
				asError[*bus.StoreError](t, err, call, "is lost")
			}
			if r := b.Health(t.Context()); r.Status != health.Failed {
				t.Errorf("health is %+v", r)
			}
		})
	}
}
