package sidestream

import (
	"context"
	"errors"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/wire"
)

// returning is a follower that is being returned.
type returning struct {
	Address
	unsure bool // there may be several copies, or a Retry

	found    bool
	copied   *Copy
	position uint64 // of the last copy in S-retry
}

// maxReads is how many requests about copies are outstanding at once.
const maxReads = 8

// returnCopies stores the copies with the subjects of Retries, in order, then removes them.
// After a crash in between they are unsure: it finds the Retries, and only removes. It returns
// how many of the first copies it has moved.
func (f *Followers) returnCopies(ctx context.Context, all []returning) (moved int, err error) {
	if err := f.each(ctx, all, f.read); err != nil {
		return 0, err
	}
	for moved < len(all) && err == nil {
		if err = f.storeRetry(ctx, &all[moved]); err == nil {
			moved++
		}
	}
	if failed := f.each(ctx, all[:moved], f.remove); failed != nil {
		return 0, failed
	}
	return moved, err
}

// each calls fn for all, several at once, with a timeout for each. It returns the first error.
func (f *Followers) each(ctx context.Context, all []returning, fn func(context.Context, *returning) error) error {
	next := make(chan *returning)
	errs := make(chan error, len(all))
	var wg sync.WaitGroup
	for range min(maxReads, len(all)) {
		wg.Go(func() {
			for r := range next {
				one, cancel := f.s.core.WithTimeout(ctx)
				errs <- fn(one, r)
				cancel()
			}
		})
	}
	for i := range all {
		next <- &all[i]
	}
	close(next)
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// read reads the copy of r. An earlier owner may have removed it at this moment, after it
// stored the Retry.
func (f *Followers) read(ctx context.Context, r *returning) error {
	m, err := f.s.Retries.GetLastMsgForSubject(ctx, r.Subject(Later))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		r.found, err = f.hasRetry(ctx, r.Address, 0)
		return err
	}
	if err != nil {
		return err
	}
	r.position = m.Sequence
	if c, err := parseFollower(wire.Header(m.Header), m.Data, r.Address); err == nil { // else somebody else has put it there
		r.copied, r.found = c, true
	}
	return nil
}

// storeRetry stores the copy of r as a Retry. Where there is one already, an earlier one than
// the copy was acknowledged when the copy was stored, and is about to be removed. A later one is
// what an earlier call stored.
func (f *Followers) storeRetry(ctx context.Context, r *returning) error {
	if r.copied == nil {
		return nil
	}
	if r.unsure {
		ctx, cancel := f.s.core.WithTimeout(ctx)
		defer cancel()
		if stored, err := f.hasRetry(ctx, r.Address, r.position); err != nil || stored {
			return err
		}
	}
	return f.store(ctx, f.s.core.WithReserve, Retry, r.copied.Message(r.Subject(Retry)))
}

// remove removes the copies of r. The server removes one message faster than it purges a
// subject.
func (f *Followers) remove(ctx context.Context, r *returning) error {
	if r.position == 0 {
		return nil
	}
	if !r.unsure {
		err := f.s.Retries.DeleteMsg(ctx, r.position)
		if !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			return err
		}
	}
	return f.s.Retries.Purge(ctx, jetstream.WithPurgeSubject(r.Subject(Later)), jetstream.WithPurgeSequence(r.position+1))
}

// anchor is a message near the end of S-retry while many followers return. Without it the last
// block of a stream on disk would be empty again and again, when all that has returned is
// settled. Each time the server makes a new block, with a buffer of megabytes that stays for
// seconds. It has no meaning, and is removed with the last follower, or at the next start.
type anchor struct {
	mu       sync.Mutex
	sequence uint64 // in S-retry; 0 for none
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
	var ack *jetstream.PubAck
	err := f.s.core.WithReserve(ctx, 0, func() (err error) {
		ack, err = f.s.core.JetStream.Publish(ctx, f.s.Address(0).Anchor(), nil)
		return err
	})
	if err != nil {
		return err
	}
	before := a.sequence
	a.sequence, a.since = ack.Sequence, 0
	return f.removeAnchor(ctx, before)
}

// remove removes the anchor.
func (a *anchor) remove(ctx context.Context, f *Followers) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	ctx, cancel := f.s.core.WithTimeout(ctx)
	defer cancel()
	before := a.sequence
	a.sequence = 0
	return f.removeAnchor(ctx, before)
}

// removeAnchor removes the anchor with a sequence, if any. It may be gone.
func (f *Followers) removeAnchor(ctx context.Context, sequence uint64) error {
	if sequence == 0 {
		return nil
	}
	if err := f.s.Retries.DeleteMsg(ctx, sequence); !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return err
	}
	return nil
}

// hasRetry reports whether the last Retry at an address was stored after a position.
func (f *Followers) hasRetry(ctx context.Context, a Address, position uint64) (bool, error) {
	m, err := f.s.Retries.GetLastMsgForSubject(ctx, a.Subject(Retry))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	return err == nil && m.Sequence > position, err
}
