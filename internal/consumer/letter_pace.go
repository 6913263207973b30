package consumer

import (
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/jserr"
)

const (
	// fullPause is the least time between two dead letters for which the server had no room.
	fullPause = 900 * time.Millisecond
	// letterReportInterval is the least time between two reports of a dead letter that
	// cannot be stored, and of all for which there is no room.
	letterReportInterval = time.Minute
	// maxLetterReports bounds the messages whose report is remembered.
	maxLetterReports = 1024
)

// letterPace spaces out the tries to store dead letters that fail, and their reports. The zero
// value is ready to use. Safe for concurrent use.
type letterPace struct {
	mu       sync.Mutex
	full     error                // the server had no room; nil once a dead letter was stored
	fullAt   time.Time            // when it said so
	reported map[uint64]time.Time // by sequence; 0 stands for all for which there is no room
}

// wait returns why no dead letter should be stored now, or nil.
func (p *letterPace) wait() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.full != nil && time.Since(p.fullAt) < fullPause {
		return p.full
	}
	return nil
}

// failed records that a dead letter could not be stored, and reports whether that has to be
// reported.
func (p *letterPace) failed(sequence uint64, err error) (due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if jserr.IsFull(err) {
		p.full, p.fullAt = err, time.Now()
		sequence = 0
	}
	if time.Since(p.reported[sequence]) < letterReportInterval {
		return false
	}
	if p.reported == nil || len(p.reported) >= maxLetterReports {
		p.reported = make(map[uint64]time.Time)
	}
	p.reported[sequence] = time.Now()
	return true
}

// succeeded records that a dead letter was stored.
func (p *letterPace) succeeded(sequence uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.full = nil
	delete(p.reported, sequence)
}
