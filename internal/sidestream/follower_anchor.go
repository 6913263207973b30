package sidestream

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// anchor is a message near the end of S-retry while many followers return. Without it the last
// block of a stream on disk would be empty again and again, when all that has returned is
// settled. Each time the server makes a new block, with a buffer of megabytes that stays for
// seconds. It has no meaning, and is removed with the last follower, or at the next start.
type anchor struct {
	mu       sync.Mutex
	sequence uint64 // in S-retry; 0 for none
	doubt    bool   // there may be others: an answer was lost
	since    int    // messages stored after it
}

// renewAnchor is how many followers return before the anchor is renewed, since a block is full
// some time.
const renewAnchor = 16

// renew stores an anchor and removes the one before, if it is time: so many followers are about
// to be returned.
func (a *anchor) renew(ctx context.Context, f *Followers, followers int) error {
	if f.s.Retries.CachedInfo().Config.Storage == jetstream.MemoryStorage {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since += followers; a.since < renewAnchor {
		return nil
	}
	ctx, cancel := f.s.core.WithTimeout(ctx)
	defer cancel()
	if err := a.clear(ctx, f); err != nil { // else their number would grow
		return err
	}
	sequence, err := f.storeAnchor(ctx)
	if err != nil {
		a.doubt = true
		return err
	}
	before := a.sequence
	a.sequence, a.since = sequence, 0
	return a.delete(ctx, f, before)
}

// storeAnchor stores an anchor and returns its sequence. It waits while the bus moves to another
// server, where another message would get that sequence.
func (f *Followers) storeAnchor(ctx context.Context) (sequence uint64, err error) {
	if err := f.s.core.Link.Enter(ctx); err != nil {
		return 0, err
	}
	defer f.s.core.Link.Leave()
	ctx, end := f.s.core.Link.WhileConnected(ctx)
	defer end()
	err = f.s.core.WithReserve(ctx, 0, func() error {
		ack, err := f.s.core.JetStream.Publish(ctx, f.s.Address(0).Anchor(), nil)
		if err == nil {
			sequence = ack.Sequence
		}
		return err
	})
	return sequence, err
}

// remove removes the anchor, and those that may be stored besides.
func (a *anchor) remove(ctx context.Context, f *Followers) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	ctx, cancel := f.s.core.WithTimeout(ctx)
	defer cancel()
	if err := a.clear(ctx, f); err != nil {
		return err
	}
	before := a.sequence
	a.sequence = 0
	return a.delete(ctx, f, before)
}

// clear removes all anchors if there may be more than one.
func (a *anchor) clear(ctx context.Context, f *Followers) error {
	if !a.doubt {
		return nil
	}
	err := f.s.core.Link.Repeat(ctx, func(ctx context.Context) error {
		return f.s.Retries.Purge(ctx, jetstream.WithPurgeSubject(f.s.Address(0).Anchor()))
	})
	if err == nil {
		a.sequence, a.doubt = 0, false
	}
	return err
}

// delete deletes the anchor with a sequence, if any. It may be gone. After an error there is
// doubt.
func (a *anchor) delete(ctx context.Context, f *Followers, sequence uint64) error {
	if sequence == 0 {
		return nil
	}
	alone := true
	err := f.s.core.Link.Repeat(ctx, func(ctx context.Context) error {
		first := alone
		alone = false
		return f.deleteUpTo(ctx, f.s.Address(0).Anchor(), sequence, first)
	})
	a.doubt = a.doubt || err != nil
	return err
}
