package intake

import (
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/plural"
	"github.com/omnibus-go/bus/internal/wire"
)

// reportStuckAfter is how long a message fails before its key is reported as stuck.
const reportStuckAfter = 30 * time.Second

// stuckKey is a key whose first message has failed and is to be tried again. It is in
// keyed.stuck, and guarded by Durable.mu.
type stuckKey struct {
	head     wire.Delivery // the message that failed
	err      error         // of its last attempt
	since    time.Time     // its first failure here
	spilled  bool          // messages behind it were stored
	reported bool
}

// failed records that del failed and is to be tried again. A worker calls it.
func (k *keyed) failed(del wire.Delivery, err error) {
	if !hasKey(del.Stored) {
		return
	}
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	s := k.stuck[del.Stored.Key]
	if s == nil || positionOf(&s.head) != positionOf(&del) {
		s = &stuckKey{since: time.Now()}
		k.stuck[del.Stored.Key] = s
	}
	s.head, s.err = del, err
	if !k.fullSinceLocked().IsZero() {
		k.d.wakeMaintainer()
	}
}

// lasts reports whether the message has failed for some time already.
func (s *stuckKey) lasts(now time.Time) bool { return now.Sub(s.since) >= lasting }

// manyBehind is how many messages of a key must wait for it to be reported.
func (k *keyed) manyBehind(source int) int { return max(k.d.pullers[source].MaxHeld/4, 1) }

// behindLocked is how many messages of a key wait, here and as stored followers.
func (k *keyed) behindLocked(key string) int {
	behind := k.lanes.Behind(key)
	if _, kf := k.followers.ofKeyLocked(key); kf != nil {
		behind += len(kf.all) + len(kf.behind)
	}
	return behind
}

// lookAtStuckLocked reports keys that are stuck for long. The maintainer calls it.
func (k *keyed) lookAtStuckLocked(now time.Time) {
	for _, s := range k.stuck {
		if s.reported || now.Sub(s.since) < reportStuckAfter {
			continue
		}
		if behind := k.behindLocked(s.head.Stored.Key); behind >= k.manyBehind(s.head.Stored.Source) {
			s.reported = true
			k.d.reportLocked(s.problem(behind))
		}
	}
}

// stuckDueLocked is when a stuck key may have to be reported, zero for never.
func (k *keyed) stuckDueLocked() (next time.Time) {
	for _, s := range k.stuck {
		if at := s.since.Add(reportStuckAfter); !s.reported && at.After(time.Now()) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

func (s *stuckKey) problem(behind int) *KeyStuck {
	return &KeyStuck{Subject: s.head.Subject, Sequence: s.head.Stored.Sequence, Behind: behind, Err: s.err}
}

// fullSinceLocked is since when a puller can take in nothing more because of messages that
// wait; zero if all can.
func (k *keyed) fullSinceLocked() (since time.Time) {
	for i := range k.sources {
		if full := k.sources[i].full; !full.IsZero() && (since.IsZero() || full.Before(since)) {
			since = full
		}
	}
	return since
}

// stuckLocked is why no messages can be had while others wait for a stuck key, or nil.
func (k *keyed) stuckLocked() error {
	since := k.fullSinceLocked()
	if since.IsZero() || time.Since(since) < reportStuckAfter {
		return nil
	}
	var longest *stuckKey
	for _, s := range k.stuck {
		if longest == nil || s.since.Before(longest.since) {
			longest = s
		}
	}
	if longest == nil || time.Since(longest.since) < reportStuckAfter {
		return nil
	}
	return longest.problem(k.behindLocked(longest.head.Stored.Key))
}

// KeyStuck says that many messages wait behind one that fails.
type KeyStuck struct {
	Subject  string // of the one that fails
	Sequence uint64
	Behind   int   // how many of its key wait
	Err      error // of its last attempt
}

// Error says how many wait for what.
func (e *KeyStuck) Error() string {
	return fmt.Sprintf("%s behind message %d of the same key, which failed: %v", plural.Of(e.Behind, "message waits", "messages wait"), e.Sequence, e.Err)
}

// Unwrap returns the last failure.
func (e *KeyStuck) Unwrap() error { return e.Err }
