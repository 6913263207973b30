package intake

import (
	"fmt"

	"github.com/omnibus-go/bus/internal/wire"
)

// stuckKey is a key whose first message has failed and will be tried again.
type stuckKey struct {
	head     wire.Delivery
	err      error // of its last attempt
	reported bool
	giveUp   bool // at its next failure, or as soon as it waits
	taken    bool // it waited, and has been given up
}

// failed notes that del, which was tried, has failed and will be tried again. It returns true when that
// must not be.
func (d *Durable) failed(del wire.Delivery, err error) (giveUp bool) {
	if !hasKey(&del) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.stuck[del.Stored.Key]
	if k == nil {
		k = new(stuckKey)
		d.stuck[del.Stored.Key] = k
	}
	k.head, k.err = del, err
	d.crowded = true
	return k.giveUp
}

// unstick forgets what failed of del's key.
func (d *Durable) unstick(del *wire.Delivery) {
	if !hasKey(del) {
		return
	}
	d.mu.Lock()
	delete(d.stuck, del.Stored.Key)
	d.mu.Unlock()
}

// manyBehind is how many messages of a key must wait for it to be stuck, as far as a
// source is concerned.
func (d *Durable) manyBehind(source int) int { return max(d.pullers[source].MaxHeld/4, 1) }

// crowd notes that del waits behind another.
func (d *Durable) crowd(del *wire.Delivery) {
	if d.lanes.Behind(del.Stored.Key) < d.manyBehind(del.Stored.Source) {
		return
	}
	d.mu.Lock()
	d.crowded = true
	d.mu.Unlock()
	d.wakeMaintainer()
}

// lookAtStuck tells of keys behind whose failing message too many others wait, and
// gives that message up where the keys are to be parked. When nothing more fits that is
// the one with the most.
func (d *Durable) lookAtStuck() {
	d.mu.Lock()
	if !d.crowded {
		d.mu.Unlock()
		return
	}
	d.crowded = false
	var most *stuckKey
	var givenUp []wire.Delivery
	longest := 0
	for key, k := range d.stuck {
		behind := d.lanes.Behind(key)
		if behind > longest {
			most, longest = k, behind
		}
		if behind >= d.manyBehind(k.head.Stored.Source) || k.giveUp {
			givenUp = d.declareStuckLocked(givenUp, k, behind)
		}
	}
	if len(givenUp) == 0 && most != nil && d.fullLocked() {
		givenUp = d.declareStuckLocked(givenUp, most, longest)
	}
	d.mu.Unlock()
	d.pushAll(givenUp)
}

// declareStuckLocked adds to ds the first message of k when that is given up now.
func (d *Durable) declareStuckLocked(ds []wire.Delivery, k *stuckKey, behind int) []wire.Delivery {
	if !k.reported {
		k.reported = true
		d.reportLocked(&KeyStuck{Subject: k.head.Subject, Sequence: k.head.Stored.Sequence, Behind: behind, Err: k.err})
	}
	if !d.cfg.GiveUpStuck || k.taken {
		return ds
	}
	k.giveUp = true
	del, ok := d.waiting.take(k.head.Stored)
	if !ok {
		d.crowded = true // it runs; its failure is the last, but it may be postponed
		return ds
	}
	k.taken = true
	d.pullers[del.Stored.Source].waiting--
	if del.Stored.Dead == nil { // else it only waits to be buried
		del.Stored.Dead = k.err
		del.Stored.Attempt-- // the next one, which is not made
	}
	return append(ds, del)
}

// fullLocked is whether a source can take in nothing more because of messages that
// wait.
func (d *Durable) fullLocked() bool {
	for _, s := range d.pullers {
		if s.full {
			return true
		}
	}
	return false
}

// stuckLocked is why no messages can be had while others wait for a stuck key.
func (d *Durable) stuckLocked() error {
	if !d.fullLocked() {
		return nil
	}
	for key, k := range d.stuck {
		if k.reported {
			return &KeyStuck{Subject: k.head.Subject, Sequence: k.head.Stored.Sequence, Behind: d.lanes.Behind(key), Err: k.err}
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
