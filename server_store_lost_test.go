package bus_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
)

// A store directory that is lost while it is open is noticed, and nothing is said to be
// stored any more: at once for the directory and data, and within a second for LOCK and the folder
// of a stream.
func TestStoreDirIsLost(t *testing.T) {
	t.Parallel()
	inside := func(names ...string) func(dir string) string {
		return func(dir string) string { return filepath.Join(append([]string{dir}, names...)...) }
	}
	stream := inside("data", "jetstream", "$G", "streams", "S")
	remove := func(of func(string) string) func(string) error {
		return func(dir string) error { return os.RemoveAll(of(dir)) }
	}
	replace := func(of func(string) string) func(string) error {
		return func(dir string) error {
			if err := os.Rename(of(dir), dir+"-moved"); err != nil {
				return err
			}
			return os.CopyFS(of(dir), os.DirFS(dir+"-moved"))
		}
	}
	for name, tc := range map[string]struct {
		lose   func(dir string) error
		atOnce bool
		text   string // the bus may look while it is being done
	}{
		"LOCK removed":           {remove(inside("LOCK")), false, "its file LOCK was removed"},
		"directory removed":      {remove(inside()), true, "was removed"},
		"directory moved":        {func(dir string) error { return os.Rename(dir, dir+"-moved") }, true, "the directory was removed or moved"},
		"directory replaced":     {replace(inside()), true, "the directory was "},
		"data removed":           {remove(inside("data")), true, "was removed"},
		"data replaced":          {replace(inside("data")), true, "its folder data was "},
		"stream folder removed":  {remove(stream), false, "S was removed"},
		"stream folder replaced": {replace(stream), false, "S was "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testLostStore(t, tc.lose, tc.atOnce, tc.text)
		})
	}
}

func testLostStore(t *testing.T, lose func(dir string) error, atOnce bool, text string) {
	dir := filepath.Join(t.TempDir(), "store")
	const s bus.Subject[int] = "s.x"
	before, err := quietBus(bus.WithStoreDir(dir), bus.WithTimeout(stuck))
	must(t, err)
	declare(t, before, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	must(t, before.Close())
	events := make(chan event.Event, 1000)
	b, err := quietBus(anyPort(), bus.WithStoreDir(dir), bus.WithEvents(func(e event.Event) { events <- e }))
	must(t, err)
	defer func() { _ = b.Close() }()
	client := rawClient(t, b)
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	must(t, second(bus.PublishTo(t.Context(), st, s, 1)))
	if err := lose(dir); err != nil {
		t.Skipf("SKIPPED: this system does not allow that: %v", err)
	}
	if atOnce {
		asError[*bus.StoreError](t, second(bus.PublishTo(t.Context(), st, s, 2)), "is lost", text)
	}
	for e := receive(t, events); ; e = receive(t, events) {
		if lost, ok := e.Err.(*bus.StoreError); ok && e.Kind == event.ServerError && lost.Problem == bus.StoreUnusable {
			hasText(t, lost, text)
			break
		}
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
	eventually(t, "other clients are refused", func() bool {
		reply, err := client.RequestWithContext(deadline(t), "s.x", []byte("1"))
		return err == nil && strings.Contains(string(reply.Data), `"error"`)
	})
}

// Health looks at the store directory, and a future that is resolved after the loss says so.
func TestFutureAfterTheLoss(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	b, err := quietBus(bus.WithStoreDir(dir))
	must(t, err)
	defer func() { _ = b.Close() }()
	const s bus.Subject[int] = "s.x"
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	must(t, second(bus.PublishTo(t.Context(), st, s, 1)))
	if err := os.Rename(filepath.Join(dir, "data"), filepath.Join(dir, "data2")); err != nil {
		t.Skipf("SKIPPED: this system does not allow that: %v", err)
	}
	if r := b.Health(t.Context()); r.Status != health.Failed {
		t.Errorf("health is %+v", r)
	}
	f, err := bus.PublishToAsync(t.Context(), st, s, 2)
	if err == nil {
		_, err = f.Wait(t.Context())
	}
	asError[*bus.StoreError](t, err, "PublishToAsync", "data was removed")
}

// Streams that are purged, deleted and created again are no loss.
func TestStoreDirIsNotLost(t *testing.T) {
	t.Parallel()
	b, err := quietBus(bus.WithStoreDir(filepath.Join(t.TempDir(), "store")))
	must(t, err)
	defer func() { _ = b.Close() }()
	const s bus.Subject[int] = "s.x"
	for began := time.Now(); time.Since(began) < time.Second; { // the bus looks at least twice
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		for range 20 {
			must(t, second(bus.PublishTo(t.Context(), st, s, 1)))
			must(t, second(st.Purge(t.Context(), bus.PurgeFilter{})))
		}
		must(t, st.Delete(t.Context()))
	}
	if r := b.Health(t.Context()); r.Status == health.Failed {
		t.Errorf("health is %+v", r)
	}
}
