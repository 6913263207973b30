package recovery

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// Config describes the recovery log of a durable.
type Config struct {
	Core   *core.Core
	Store  *sidestream.Store // of the durable
	Stream string            // the stream of the durable

	MaxCrashes int  // a message that crashed the process so often becomes a dead letter; 0 for no limit
	Keyed      bool // the order of keys is kept
	BlockKeys  bool // with Keyed: a dead letter blocks its key

	Cause    func(failure error) string // the kind of a failure, as dead letters name it
	Handlers context.Context            // of the handlers; requests end with it
}

// Log is the recovery log of a durable. It belongs to one intake. Safe for concurrent use.
type Log struct {
	cfg  Config
	run  string       // identifies this consumer among those before and after it
	keys *blockedKeys // nil without keys

	mu        sync.Mutex
	crashes   map[uint64]int // by sequence: crash marks of earlier runs
	records   map[messageID]handback
	lastRead  uint64 // sequence of the latest handback message that was read
	lastWrote int    // number of handback messages that this log wrote
}

// messageID identifies a message among those of all sources of a durable.
type messageID struct {
	source   int
	sequence uint64 // in that source
}

func idOf(d *wire.Delivery) messageID {
	return messageID{d.Stored.Source, d.Stored.SourceSequence}
}

// Open reads what earlier runs of the consumer stored. Errors are *jserr.Error.
func Open(ctx context.Context, c Config) (*Log, error) {
	l := &Log{cfg: c, run: strconv.FormatUint(rand.Uint64(), 36),
		crashes: make(map[uint64]int), records: make(map[messageID]handback)}
	all := c.Store.Address(0)
	subjects, err := countSubjects(ctx, c.Store.Retries, all.RecoveryPattern())
	if err != nil {
		return nil, jserr.Wrap(sidestream.RetryStream(c.Stream), "read", err)
	}
	for subject := range subjects {
		if sequence, ok := sidestream.ParseStartMark(subject); ok {
			l.crashes[sequence]++
		}
	}
	if subjects[all.HandbackRecords()] > 0 {
		if err := l.readRecords(ctx); err != nil {
			return nil, err
		}
	}
	if c.Keyed {
		l.keys, err = openBlockedKeys(ctx, c)
	}
	return l, err
}

// countSubjects returns the number of messages on each subject of st that matches a pattern.
func countSubjects(ctx context.Context, st jetstream.Stream, pattern string) (map[string]uint64, error) {
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(pattern))
	if err != nil {
		return nil, err
	}
	return info.State.Subjects, nil
}

// Restore sets what earlier runs stored about d. An intake calls it once for each message.
func (l *Log) Restore(d wire.Delivery) {
	h, recorded := l.takeRecord(&d)
	if !recorded && d.Stored.Deliveries > 1 && l.request(l.readRecords) == nil { // else d is a suspect, which is safe
		h, recorded = l.takeRecord(&d)
	}
	switch {
	case recorded && h.Dead != nil:
		d.Stored.Dead, d.Stored.Attempt = h.Dead.Failure(), h.Dead.Attempts
	case recorded:
		d.Stored.Attempt = max(d.Stored.Attempt, h.Attempts+1)
	}
	l.mu.Lock()
	d.Stored.Crashes = l.crashes[d.Stored.Sequence]
	delete(l.crashes, d.Stored.Sequence)
	l.mu.Unlock()
	switch {
	case l.cfg.MaxCrashes == 0:
	case d.Stored.Crashes > 0, isSuspect(d.Stored, h, recorded):
		d.Stored.Isolation = wire.Alone
	case d.Stored.Source != 0: // their consumer counts deliveries anew when its server starts
		d.Stored.Isolation = wire.Marked
	}
}

// isSuspect reports whether a message was delivered more often than it was returned, by its
// record: then a process may have died of it.
func isSuspect(s *wire.Stored, h handback, recorded bool) bool {
	return s.Deliveries > 1 && (!recorded || h.Deliveries+1 < s.Deliveries)
}

// request calls fn, which asks the server and may be repeated, until there is an answer.
func (l *Log) request(fn func(context.Context) error) error {
	ctx, done := l.cfg.Core.Bound(l.cfg.Handlers)
	defer done()
	return l.cfg.Core.Link.Repeat(ctx, fn)
}

// MayRun reports whether d, which has a key, may run now. If wait is true earlier messages
// of its key come first. If barred is not nil d becomes a dead letter with this failure.
func (l *Log) MayRun(d wire.Delivery) (wait bool, barred error) {
	if !l.keys.any() {
		return false, nil
	}
	if l.request(func(ctx context.Context) (err error) {
		wait, barred, err = l.keys.mayRun(ctx, &d)
		return err
	}) != nil {
		return true, nil
	}
	return wait, barred
}

// RecordDeadLetter records that d is a dead letter now. It blocks d's key.
func (l *Log) RecordDeadLetter(d *wire.Delivery) {
	if l.cfg.Keyed && l.cfg.BlockKeys && d.Stored.Key != "" {
		l.keys.block(d)
	}
}
