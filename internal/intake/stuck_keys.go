package intake

import (
	"fmt"

	"github.com/omnibus-go/bus/internal/wire"
)

// stuckKey is a key whose first message has failed and is to be tried again. It is in
// keyed.stuck, and guarded by Durable.mu.
type stuckKey struct {
	head     wire.Delivery // the message that failed
	err      error         // of its last attempt
	reported bool
	giveUp   bool // its next failure is the last, or it is given up as soon as it waits
	given    bool // it has been given up
}

// failed records that del failed and is to be tried again. It returns true, which gives
// del up, when the config says so and too many others wait behind it. A worker calls it.
func (k *keyed) failed(del wire.Delivery, err error) (giveUp bool) {
	if !hasKey(del.Stored) {
		return false
	}
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	s := k.stuck[del.Stored.Key]
	if s == nil {
		s = new(stuckKey)
		k.stuck[del.Stored.Key] = s
	}
	s.head, s.err = del, err
	k.crowded = true
	if behind := k.lanes.Behind(del.Stored.Key); behind >= k.manyBehind(del.Stored.Source) || k.isLongestOfFullLocked(s, behind) {
		k.reportStuckLocked(s, behind)
		s.giveUp = s.giveUp || k.d.cfg.GiveUpStuck
	}
	s.given = s.giveUp
	return s.giveUp
}

// isLongestOfFullLocked reports whether nothing more fits, and more messages wait behind
// s than behind any other stuck key.
func (k *keyed) isLongestOfFullLocked(s *stuckKey, behind int) bool {
	if behind == 0 || !k.fullLocked() {
		return false
	}
	longest, _ := k.longestLocked()
	return longest == s
}

// manyBehind is how many messages of a key must wait for it to be stuck, as far as a
// source is concerned.
func (k *keyed) manyBehind(source int) int { return max(k.d.pullers[source].MaxHeld/4, 1) }

// arrivedBehind has the maintainer look when many wait behind the key of a message.
func (k *keyed) arrivedBehind(s *wire.Stored) {
	if k.lanes.Behind(s.Key) < k.manyBehind(s.Source) {
		return
	}
	k.d.mu.Lock()
	k.crowded = true
	k.d.mu.Unlock()
	k.d.wakeMaintainer()
}

// lookAtStuck reports keys behind whose failing message too many others wait, and gives
// that message up where the config says so. When nothing more fits that is the one with
// the most behind it. The maintainer calls it.
func (k *keyed) lookAtStuck() {
	k.d.mu.Lock()
	if !k.crowded {
		k.d.mu.Unlock()
		return
	}
	k.crowded = false
	var givenUp []wire.Delivery
	for key, s := range k.stuck {
		if behind := k.lanes.Behind(key); s.giveUp || behind >= k.manyBehind(s.head.Stored.Source) {
			givenUp = k.declareStuckLocked(givenUp, s, behind)
		}
	}
	if len(givenUp) == 0 && k.fullLocked() {
		if s, behind := k.longestLocked(); s != nil {
			givenUp = k.declareStuckLocked(givenUp, s, behind)
		}
	}
	k.d.mu.Unlock()
	k.d.pushAll(givenUp)
}

// longestLocked is the stuck key with the most messages behind it, nil where none has any.
func (k *keyed) longestLocked() (longest *stuckKey, behind int) {
	for key, s := range k.stuck {
		if n := k.lanes.Behind(key); n > behind {
			longest, behind = s, n
		}
	}
	return longest, behind
}

// declareStuckLocked reports s, and adds its message to ds when that is given up now.
func (k *keyed) declareStuckLocked(ds []wire.Delivery, s *stuckKey, behind int) []wire.Delivery {
	k.reportStuckLocked(s, behind)
	if !k.d.cfg.GiveUpStuck || s.given {
		return ds
	}
	s.giveUp = true
	del, ok := k.d.waiting.take(s.head.Stored)
	if !ok {
		k.crowded = true // it runs; its failure is the last, but it may be postponed
		return ds
	}
	s.given = true
	k.d.pullers[del.Stored.Source].waiting--
	if del.Stored.Dead == nil { // else it only waits for its dead letter to be written
		del.Stored.Dead = s.err
		del.Stored.Attempt-- // the next one, which is not made
	}
	return append(ds, del)
}

// reportStuckLocked reports s once.
func (k *keyed) reportStuckLocked(s *stuckKey, behind int) {
	if !s.reported {
		s.reported = true
		k.d.reportLocked(s.problem(behind))
	}
}

func (s *stuckKey) problem(behind int) *KeyStuck {
	return &KeyStuck{Subject: s.head.Subject, Sequence: s.head.Stored.Sequence, Behind: behind, Err: s.err}
}

// fullLocked is whether a puller can take in nothing more because of messages that
// wait.
func (k *keyed) fullLocked() bool {
	for i := range k.sources {
		if k.sources[i].full {
			return true
		}
	}
	return false
}

// stuckLocked is why no messages can be had while others wait for a stuck key, or nil.
func (k *keyed) stuckLocked() error {
	if !k.fullLocked() {
		return nil
	}
	for key, s := range k.stuck {
		if s.reported {
			return s.problem(k.lanes.Behind(key))
		}
	}
	return nil
}

// KeyStuck says that many messages wait behind one that fails.
type KeyStuck struct {
	Subject  string // of the one that fails
	Sequence uint64
	Behind   int   // how many of its key wait here
	Err      error // of its last attempt
}

// Error says how many wait for what.
func (e *KeyStuck) Error() string {
	return fmt.Sprintf("%d messages wait behind message %d of their key, which failed: %v", e.Behind, e.Sequence, e.Err)
}

// Unwrap returns the last failure.
func (e *KeyStuck) Unwrap() error { return e.Err }
