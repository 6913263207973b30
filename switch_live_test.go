package bus_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/switchover"
)

// many messages of 100 KB are enough that their stream is copied while publishers go on.
const many = 350

// numbered is a large message with a number.
type numbered struct {
	N    int
	Fill string
}

func newNumbered(n int) numbered {
	return numbered{n, fmt.Sprintf("%x", rand.Perm(300)) + strings.Repeat("x", 100_000)} // about 1 KB in a snapshot
}

// storeMany stores the numbers from 1 to many, with the keys 0 to 2.
func storeMany(t *testing.T, st *bus.Stream) {
	t.Helper()
	for n := 1; n <= many; n++ {
		_, err := bus.PublishTo(t.Context(), st, bus.Subject[numbered](fmt.Sprintf("s.%d", n%3)), newNumbered(n))
		must(t, err)
	}
}

// slowCopy bounds the rate of a copy, so that something can happen meanwhile, and calls do
// once in the middle of it.
func slowCopy(do func()) []switchover.Option {
	var once sync.Once
	return []switchover.Option{switchover.CopyRate(512 << 10), switchover.OnProgress(func(p switchover.Progress) {
		if p.Phase == switchover.Precopy && p.Bytes > 0 {
			once.Do(do)
		}
	})}
}

// infoOf returns a consumer as the server has it.
func infoOf(t *testing.T, js jetstream.JetStream, stream, durable string) *jetstream.ConsumerInfo {
	t.Helper()
	c, err := js.Consumer(t.Context(), stream, durable)
	must(t, err)
	return c.CachedInfo()
}

// A large stream is copied while publishers go on. What is stored meanwhile is there, what is
// removed is not, what handlers settle is settled, and nothing is handled again. Retries and
// messages that handlers have keep their count.
func TestSwitchToCopiesALargeStreamWhilePublishersGoOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		servers int
		config  bus.StreamConfig
	}{
		"limits":             {1, bus.StreamConfig{}},
		"memory":             {1, bus.StreamConfig{Storage: bus.MemoryStorage}},
		"work queue":         {1, bus.StreamConfig{Retention: bus.WorkQueueRetention}},
		"cluster":            {3, bus.StreamConfig{}},
		"cluster work queue": {3, bus.StreamConfig{Retention: bus.WorkQueueRetention}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.servers > 1 {
				needsCluster(t)
			}
			t.Parallel()
			_, urls := servers(t, c.servers)
			b := openOn(t, t.TempDir(), bus.WithTimeout(time.Minute), bus.WithMaxMemory(256<<20))
			c.config.Name, c.config.Subjects = "S", []string{"s.*"}
			st := declare(t, b, c.config)
			storeMany(t, st)
			var mu sync.Mutex
			handled, attempts := make(map[int]int), make(map[int]int)
			release := make(chan struct{})
			blocked := make(chan int)
			consume(t, st, "c", "s.*", func(ctx context.Context, m *bus.Msg[numbered]) error {
				mu.Lock()
				attempts[m.Data.N] = max(attempts[m.Data.N], m.Attempt)
				mu.Unlock()
				switch {
				case m.Data.N == 5 && m.Attempt < 3:
					return errNotYet
				case m.Data.N > 5 && m.Data.N <= 8 || m.Data.N > 20: // until the middle of the copy
					select {
					case <-release:
					case blocked <- m.Data.N:
						<-release
					}
				}
				mu.Lock()
				defer mu.Unlock()
				handled[m.Data.N]++
				return nil
			}, bus.Concurrency(8), bus.AckWait(5*time.Second), bus.Retry(bus.RetryPolicy{MaxAttempts: 5, MinBackoff: 2 * time.Second, MaxBackoff: 2 * time.Second}))
			for range 8 {
				receive(t, blocked)
			}
			var stored atomic.Int64
			var ended sync.WaitGroup
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			ended.Go(func() {
				for n := many + 1; ctx.Err() == nil && n < many+4000; n++ {
					if _, err := bus.PublishTo(t.Context(), st, bus.Subject[numbered]("s.9"), numbered{N: n}); err != nil {
						t.Errorf("PublishTo: %v", err)
						return
					}
					stored.Store(int64(n))
				}
			})
			opts := slowCopy(func() {
				before := infoOf(t, b.JetStream(), "S", "c").NumAckPending
				close(release) // what is blocked settles while the stream is copied
				eventually(t, "eight messages are settled", func() bool { return infoOf(t, b.JetStream(), "S", "c").NumAckPending <= before-8 })
				if _, err := st.Purge(t.Context(), bus.PurgeFilter{Subject: "s.9"}); err != nil {
					t.Errorf("Purge: %v", err)
				}
			})
			report := switchTo(t, b, urls, opts...)
			t.Log(report, report.Phases)
			select {
			case <-release:
			default:
				t.Fatal("the stream was not copied before publishers waited")
			}
			if !slices.Equal(report.Live, []string{"S"}) || len(report.Warnings) > 0 {
				t.Errorf("report = %+v", report)
			}
			stop()
			ended.Wait()
			last := int(stored.Load())
			eventually(t, "everything is handled", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return handled[last] == 1 && len(handled) >= many
			})
			eventually(t, "everything is settled", func() bool {
				info := infoOf(t, b.JetStream(), "S", "c")
				return info.NumAckPending == 0 && info.NumPending == 0
			})
			mu.Lock()
			defer mu.Unlock()
			for n := 1; n <= many; n++ {
				if handled[n] != 1 || attempts[n] != 1 && n != 5 || n == 5 && attempts[n] != 3 {
					t.Fatalf("%d was handled %d times, attempt %d", n, handled[n], attempts[n])
				}
			}
		})
	}
}
