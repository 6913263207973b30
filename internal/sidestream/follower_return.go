package sidestream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// returning is a follower that is being returned.
type returning struct {
	Address
	unsure bool // there may be several copies, or a Retry

	found      bool
	copied     *Copy
	unreadable error  // why there is no copied, though a message is there
	position   uint64 // of the last copy in S-retry
}

// maxReads is how many requests about copies are outstanding at once.
const maxReads = 8

// returnCopies stores the copies with the subjects of Retries, in order, then removes them.
// After a crash in between they are unsure: it finds the Retries, and only removes. It returns
// how many of the first copies it has moved. An error about one of the others does not say
// that it has no Retry. A copy that cannot be read stays, with those after it: the error is an
// *intake.UnreadableError.
func (f *Followers) returnCopies(ctx context.Context, all []returning) (moved int, err error) {
	if _, err := f.each(ctx, all, f.read); err != nil {
		return 0, err
	}
	stored := 0
	for stored < len(all) && err == nil {
		if err = f.storeRetry(ctx, &all[stored]); err == nil {
			stored++
		}
	}
	moved, failed := f.each(ctx, all[:stored], f.remove)
	if failed != nil {
		err = failed // that of storeRetry comes again
	}
	return moved, err
}

// each calls fn for all, several at once, with a timeout for each. It calls fn again when the
// connection was lost meanwhile, and for no more after one has failed. It returns for how many of the
// first fn succeeded, and the first error.
func (f *Followers) each(ctx context.Context, all []returning, fn func(context.Context, *returning) error) (done int, err error) {
	next := make(chan int)
	errs := make([]error, len(all))
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range min(maxReads, len(all)) {
		wg.Go(func() {
			for i := range next {
				one, cancel := f.s.core.WithTimeout(ctx)
				errs[i] = f.s.core.Link.Repeat(one, func(ctx context.Context) error { return fn(ctx, &all[i]) })
				cancel()
				if errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	begun := 0
	for ; begun < len(all) && !failed.Load(); begun++ {
		next <- begun
	}
	close(next)
	wg.Wait()
	for done < begun && errs[done] == nil {
		done++
	}
	if done < begun {
		err = errs[done]
	}
	return done, err
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
	r.found = true
	if r.copied, err = parseFollower(wire.Header(m.Header), m.Data, r.Address); err != nil {
		r.unreadable = unreadable(RetryStream(r.Stream), m.Sequence, r.Address, err)
	}
	return nil
}

// storeRetry stores the copy of r as a Retry. Where there is one already, an earlier one than
// the copy was acknowledged when the copy was stored, and is about to be removed. A later one is
// what an earlier call stored.
func (f *Followers) storeRetry(ctx context.Context, r *returning) error {
	if r.copied == nil {
		return r.unreadable
	}
	if r.unsure {
		if stored, err := f.findRetry(ctx, r.Address, r.position); err != nil || stored {
			return err
		}
		if err := f.removeEarlier(ctx, r); err != nil {
			return err
		}
	}
	return f.store(ctx, f.s.core.WithReserve, Retry, r.copied.Message(r.Subject(Retry)))
}

// remove removes the copies of r up to the one that was read. What was stored since stays. It
// waits while the bus moves to another server, which has the same positions.
func (f *Followers) remove(ctx context.Context, r *returning) error {
	if r.position == 0 {
		return nil
	}
	if err := f.s.core.Link.Enter(ctx); err != nil {
		return err
	}
	defer f.s.core.Link.Leave()
	alone := !r.unsure
	r.unsure = true
	return f.deleteUpTo(ctx, r.Subject(Later), r.position, alone)
}

// removeEarlier removes the copies of r before the one that was read. If none can be removed, no Retry
// is stored: the message would be stored here once more when that comes, again and again.
func (f *Followers) removeEarlier(ctx context.Context, r *returning) error {
	if r.position <= 1 { // none is earlier
		return nil
	}
	ctx, cancel := f.s.core.WithTimeout(ctx)
	defer cancel()
	return f.s.core.Link.Repeat(ctx, func(ctx context.Context) error {
		if err := f.s.core.Link.Enter(ctx); err != nil {
			return err
		}
		defer f.s.core.Link.Leave()
		return f.deleteUpTo(ctx, r.Subject(Later), r.position-1, false)
	})
}

// deleteUpTo deletes the messages of a subject in S-retry up to a position. alone says that there
// is one at most: the server removes one message faster than it purges a subject, if this user
// may do that. A repeat must go by the subject: a server that has lost its last messages gives
// their positions to others.
func (f *Followers) deleteUpTo(ctx context.Context, subject string, position uint64, alone bool) error {
	if alone && !f.mayNotDelete.Load() {
		err := f.s.Retries.DeleteMsg(ctx, position)
		_, refused := errors.AsType[*link.RefusedError](err)
		if refused {
			f.mayNotDelete.Store(true)
		} else if !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			return err
		}
	}
	return f.s.Retries.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(position+1))
}

// findRetry is hasRetry with a timeout. It asks again when the connection was lost meanwhile.
func (f *Followers) findRetry(ctx context.Context, a Address, position uint64) (found bool, err error) {
	ctx, cancel := f.s.core.WithTimeout(ctx)
	defer cancel()
	err = f.s.core.Link.Repeat(ctx, func(ctx context.Context) error {
		found, err = f.hasRetry(ctx, a, position)
		return err
	})
	return found, err
}

// hasRetry reports whether the last Retry at an address was stored after a position.
func (f *Followers) hasRetry(ctx context.Context, a Address, position uint64) (bool, error) {
	m, err := f.s.Retries.GetLastMsgForSubject(ctx, a.Subject(Retry))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	return err == nil && m.Sequence > position, err
}
