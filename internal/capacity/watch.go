// Package capacity remembers that the server refuses messages because the limits of memory or
// disk are reached, and reports that, not for each message.
//
// A Watch has no goroutine and nothing on disk. A crash leaves nothing behind.
package capacity

import (
	"sync"
	"time"
)

const (
	// reportInterval is the least time between two reports.
	reportInterval = time.Minute
	// memory is how long a refusal counts as the present state.
	memory = time.Minute
)

// Watch remembers refusals. Safe for concurrent use.
type Watch struct {
	report func(error)

	mu       sync.Mutex
	refused  time.Time // the latest refusal
	err      error     // of it
	reported time.Time
}

// New returns a Watch that reports by report, which is called without a lock.
func New(report func(error)) *Watch { return &Watch{report: report} }

// Refused records that the server refused a message with err, and reports it if no other one
// was reported in the last minute.
func (w *Watch) Refused(err error) {
	w.mu.Lock()
	now := time.Now()
	w.refused, w.err = now, err
	due := now.Sub(w.reported) >= reportInterval
	if due {
		w.reported = now
	}
	w.mu.Unlock()
	if due {
		w.report(err)
	}
}

// Err returns the latest refusal if it is not older than a minute, or nil.
func (w *Watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.refused) > memory {
		return nil
	}
	return w.err
}
