// Package bustest gives each test a bus of its own: a real server with real
// streams, in memory, without a port, started in milliseconds and gone with the
// test. Run does the same in virtual time, where an hour of waiting takes none.
package bustest

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server/ats"

	"github.com/omnibus-go/bus"
)

const (
	maxMemory    = 64 << 20
	drainTimeout = 5 * time.Second
)

// New returns a bus that is closed when the test ends; the test fails if the bus
// could not be started, or leaves something behind then. What a Close or Shutdown of
// the test's own returns is the test's to judge. It differs from
// bus.New() in that warnings go to the test's log, strict publishing is on, the
// memory for streams is limited to 64 MiB, and the drain timeout is 5 s; opts
// come after those. Buses share nothing, so tests may run in parallel.
func New(tb testing.TB, opts ...bus.Option) *bus.Bus {
	tb.Helper()
	log := &testLog{tb: tb}
	all := append([]bus.Option{
		bus.WithLogger(log.logger()),
		bus.WithStrictPublish(),
		bus.WithMaxMemory(maxMemory),
		bus.WithDrainTimeout(drainTimeout),
	}, opts...)
	b, err := bus.New(all...)
	if err != nil {
		tb.Fatalf("bustest: %v", err)
	}
	tb.Cleanup(func() {
		closed := isClosed(b)
		if err := b.Close(); err != nil && !closed {
			tb.Errorf("bustest: closing the bus: %v", err)
		}
		log.end()
	})
	return b
}

// isClosed reports whether the test has closed the bus.
func isClosed(b *bus.Bus) bool {
	select {
	case <-b.Done():
		return true
	default:
		return false
	}
}

// Run calls f in a testing/synctest bubble with a bus from New: the clock starts
// on 1 January 2000 and jumps ahead whenever every goroutine waits, so timeouts,
// retries and message ages take no real time, and synctest.Wait tells when
// nothing moves any more. In the bubble there is no network (WithListen and WithURL
// fail the test) and t.Parallel must be called before Run. A goroutine that outlives f,
// as a handler that runs beyond the drain timeout, ends the test binary with synctest's
// panic "deadlock: main bubble goroutine has exited". Of nats.go only functions that take a context can be used.
func Run(t *testing.T, f func(t *testing.T, b *bus.Bus), opts ...bus.Option) {
	t.Helper()
	// The server reads the time from a ticker that the whole process shares. It
	// has to run outside the bubble, or time would stand still inside.
	ats.Register()
	defer ats.Unregister()
	synctest.Test(t, func(t *testing.T) {
		t.Helper()
		b := New(t, opts...)
		if url := b.ClientURL(); url != "" {
			t.Fatalf("bustest: the bus has the port %s, and there is no network in virtual time; leave WithListen and WithURL out, or use New", url)
		}
		f(t, b)
	})
}

// testLog passes warnings to a test's log for as long as that takes any.
type testLog struct {
	tb    testing.TB
	mu    sync.Mutex
	ended bool
}

func (l *testLog) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "bus", Level: hclog.Warn, Output: l, DisableTime: true})
}

// Write implements io.Writer for the logger.
func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.tb.Log(strings.TrimSuffix(string(p), "\n"))
	}
	return len(p), nil
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}
