package bus_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// webhook is one of the real events: its place in the file, and its repository.
type webhook struct {
	Line    int
	Payload struct {
		Repository struct {
			Name string `json:"full_name"`
		} `json:"repository"`
	} `json:"payload"`
}

// webhooks reads the real events. Where they are absent the test is skipped.
func webhooks(t *testing.T) (all []webhook) {
	t.Helper()
	path := filepath.Join("..", "shared", "data", "github-webhooks.ndjson")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("SKIPPED: %s is absent; with it this test handles 197 real events in the order of their repositories", path)
	}
	must(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var w webhook
		must(t, json.Unmarshal(lines.Bytes(), &w))
		w.Line = len(all)
		all = append(all, w)
	}
	must(t, lines.Err())
	if len(all) != 197 {
		t.Fatalf("%s has %d events, want 197", path, len(all))
	}
	return all
}

// Real events go through a work queue, eight at a time. Those of each repository are
// handled in the order of the file, also where a tenth of the calls fail.
func TestRealWebhooks(t *testing.T) {
	t.Parallel()
	for name, share := range map[string]float64{"no failures": 0, "a tenth fails": 0.1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := webhooks(t)
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				_, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "W", Retention: jetstream.WorkQueuePolicy, Storage: jetstream.MemoryStorage})
				must(t, err)
				st, err := b.LookupStream(t.Context(), "W")
				must(t, err)
				got := make(map[string][]int)
				var mu sync.Mutex
				fail := failAtRandom(share)
				consume(t, st, "c", "W", func(_ context.Context, m *bus.Msg[webhook]) error {
					time.Sleep(10 * time.Millisecond)
					if fail() {
						return errNo
					}
					mu.Lock()
					defer mu.Unlock()
					name := m.Data.Payload.Repository.Name
					got[name] = append(got[name], m.Data.Line)
					return nil
				}, bus.Concurrency(8), always, bus.KeyBy(func(m *bus.Msg[webhook]) string { return m.Data.Payload.Repository.Name }))
				want := make(map[string][]int)
				for _, w := range all {
					name := w.Payload.Repository.Name
					want[name] = append(want[name], w.Line)
					_, err := bus.PublishTo(t.Context(), st, "W", w)
					must(t, err)
				}
				pass(time.Hour)
				slices.Sort(got[""]) // those of no repository have no key, and no order
				for name := range want {
					if !slices.Equal(got[name], want[name]) {
						t.Errorf("%q: handled in the order %v, want %v", name, got[name], want[name])
					}
				}
				if left := streamInfo(t, b, "W").State.Msgs; left != 0 || len(want) < 10 {
					t.Errorf("%d events are left in the queue, there are %d repositories", left, len(want))
				}
			})
		})
	}
}
