package ownership

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/omnibus-go/bus/internal/sidestream"
)

// Everybody who may publish to $OMNIBUS.> can write a lease or a settle record, or speak as a
// member. So all that is read is bounded here: nothing that others write stops a durable for
// longer than maxTTL. docs/wire.md lists the bounds.

const (
	maxTTL     = 10 * time.Second // see TTLOf
	maxName    = 64               // bytes of the name of a member
	maxKey     = 16               // bytes of a keyHash
	maxWorkers = 1 << 16          // of one member
	maxMembers = 1000             // that an owner knows
	maxAfter   = 100 * 365 * 24 * time.Hour
)

// parseLease returns the lease that data holds. What is no lease is one that its owner must
// renew within maxTTL; see problem.
func parseLease(data []byte) (l lease) {
	if json.Unmarshal(data, &l) != nil {
		return lease{unreadable: true}
	}
	return l
}

// silence is how long the owner may be silent.
func (l *lease) silence() time.Duration {
	if l.unreadable {
		return maxTTL
	}
	return min(max(l.TTL, 0), maxTTL)
}

// problem returns what is wrong with l, or nil.
func (l *lease) problem() error {
	switch {
	case l.unreadable:
		return fmt.Errorf("it is not the JSON of a lease; it counts as that of an owner that may be silent for %v", maxTTL)
	case l.TTL < 0 || l.TTL > maxTTL:
		return fmt.Errorf("its owner may be silent for %v; %v counts", l.TTL, l.silence())
	}
	return nil
}

// parseSettleRecord returns the settle record that data holds.
func parseSettleRecord(data []byte) (settleRecord, error) {
	var r settleRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return settleRecord{}, &badRecordError{err}
	}
	for i := range r.Entries {
		sidestream.BoundReason(r.Entries[i].Dead)
	}
	return r, nil
}

// badRecordError says that the settle record cannot be read, and never will be.
type badRecordError struct{ err error }

func (e *badRecordError) Error() string {
	return fmt.Sprintf("it is not the JSON of a settle record: %.200v", e.err)
}

// parseRequest returns the request that data holds. odd is what was out of bounds in it, and
// brought within.
func parseRequest(data []byte) (r request, odd, err error) {
	if err := json.Unmarshal(data, &r); err != nil || (r.Heartbeat == nil) == (r.Outcome == nil) {
		return request{}, nil, errNoRequest
	}
	if r.Outcome != nil {
		r.Outcome.Outcome.bound()
		return r, nil, errors.Join(checkName(r.Outcome.Member), checkIDs(r.Outcome.Assignment))
	}
	h := r.Heartbeat
	if h.TTL > maxTTL || h.Workers > maxWorkers {
		odd = fmt.Errorf("member %.64q has %d workers and may be silent for %v; at most %d and %v count", h.Member, h.Workers, h.TTL, maxWorkers, maxTTL)
	}
	h.TTL, h.Workers = min(max(h.TTL, 0), maxTTL), min(max(h.Workers, 0), maxWorkers)
	return r, odd, errors.Join(checkName(h.Member), checkIDs(h.Running...))
}

// bound brings what a member says of a handler call within bounds.
func (o *outcome) bound() {
	o.Error, o.Cause = sidestream.Shorten(o.Error), sidestream.BoundCause(o.Cause)
	o.After = min(max(o.After, 0), maxAfter)
}

// checkName returns an error unless name can be a member's: it becomes a token of a subject.
func checkName(name string) error {
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || strings.ContainsRune(".*>\x7f", r) }) {
		return fmt.Errorf("no name of a member: %.64q", name)
	}
	return nil
}

// checkIDs returns an error if a key is none of keyHash.
func checkIDs(ids ...assignmentID) error {
	for i := range ids {
		if len(ids[i].Key) > maxKey {
			return fmt.Errorf("no hash of a key: %.64q", ids[i].Key)
		}
	}
	return nil
}

// minOddInterval is the shortest time between two reports of what others wrote: they may write
// fast.
const minOddInterval = time.Second

// reportOdd reports that something read from others is not what this library writes.
func (m *Member) reportOdd(what string, err error) {
	m.mu.Lock()
	now := time.Now()
	skip := now.Sub(m.oddAt) < minOddInterval
	if !skip {
		m.oddAt = now
	}
	m.mu.Unlock()
	if !skip {
		m.cfg.Odd(fmt.Errorf("%s was not written by this library, or is damaged: %w", what, err))
	}
}
