// Package bustest starts a bus for a test. Each bus has a NATS server of its own, with streams, in
// memory and without a port. It starts in milliseconds and stops when the test ends. Run does the
// same in virtual time, in which an hour of waiting takes no real time.
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

// New returns a bus that is closed when the test ends. The test fails if the bus cannot be started,
// or if closing it returns an error. If the test closes the bus itself, New does not check that
// error.
//
// The bus differs from that of bus.New() as follows: warnings go to the log of the test, strict
// publishing is on, the memory for streams is limited to 64 MiB, and the drain timeout is 5 s.
// opts can change that. Buses share nothing, so tests may run in parallel.
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

// Run calls f with a bus from New, in a testing/synctest bubble. The clock starts on 1 January 2000.
// It jumps ahead when every goroutine waits, so timeouts, retries and message ages take no real
// time. synctest.Wait returns when every goroutine waits.
//
// Rules for a bubble:
//
//   - It has no network: WithListen and WithURL fail the test.
//   - Call t.Parallel before Run.
//   - No goroutine may outlive f. If one does, for example a handler that runs longer than the
//     drain timeout, synctest panics with "deadlock: main bubble goroutine has exited".
//   - Of nats.go use only functions that take a context.
func Run(t *testing.T, f func(t *testing.T, b *bus.Bus), opts ...bus.Option) {
	t.Helper()
	// The server reads the time from a ticker of the whole process. The ticker must run
	// outside of the bubble, or time would stand still inside.
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

// testLog writes warnings to the log of a test until the test ends. Safe for concurrent use.
type testLog struct {
	tb    testing.TB
	mu    sync.Mutex
	ended bool
}

// logger returns a logger that writes warnings and errors to l.
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

// end makes Write drop everything: the log of an ended test must not be used.
func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}
