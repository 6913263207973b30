package sidestream

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// Followers keeps messages that wait behind a failing one of their key and do not fit into
// the memory of the process. Each is a copy in S-retry with the subject of a Later and the
// token of its key, but without a time: it stays until Return moves it to the subject of a
// Retry, from where it comes back to the durable. Several copies with one subject are one
// message. It implements intake.Followers. Safe for concurrent use.
type Followers struct {
	s       *Store
	fence   uint64 // sequence of the owner's mark in S-retry; 0 without
	waiting map[string][]uint64
	strays  []Address
}

// OpenFollowers asks the server which followers of the durable wait. Without keyed, and in an
// earlier incarnation of the stream, they wait for nothing any more: they are strays.
//
// With fenced several processes share the durable, and this one owns it now. From now on the
// server refuses what an earlier owner stores: it has not the latest mark.
func (s *Store) OpenFollowers(ctx context.Context, keyed, fenced bool) (*Followers, error) {
	f := &Followers{s: s, waiting: make(map[string][]uint64)}
	if fenced {
		if err := f.mark(ctx); err != nil {
			return nil, jserr.Wrap(RetryStream(s.stream.Name), "write", err)
		}
	}
	info, err := s.Retries.Info(ctx, jetstream.WithSubjectFilter(DurablePattern(Later, s.stream.Name, s.durable)))
	if err != nil {
		return nil, jserr.Wrap(RetryStream(s.stream.Name), "read", err)
	}
	now := s.Address(0).Incarnation
	for subject := range info.State.Subjects {
		switch _, a, ok := ParseSubject(subject); {
		case !ok || a.Key == "": // it has a time, and no key
		case keyed && a.Incarnation == now:
			f.waiting[a.Key] = append(f.waiting[a.Key], a.Sequence)
		default:
			f.strays = append(f.strays, a)
		}
	}
	for _, sequences := range f.waiting {
		slices.Sort(sequences)
	}
	return f, nil
}

// Waiting returns the sequences of the followers that waited at the start, ascending, by the
// token of their key.
func (f *Followers) Waiting() map[string][]uint64 { return f.waiting }

// Strays reports whether there are messages for ReturnStrays.
func (f *Followers) Strays() bool { return len(f.strays) > 0 }

// ReturnStrays moves the strays back to the durable, until ctx ends. The next start finds what
// is left.
func (f *Followers) ReturnStrays(ctx context.Context) {
	slices.SortFunc(f.strays, func(a, b Address) int { return cmp.Compare(a.Sequence, b.Sequence) })
	for _, a := range f.strays {
		if _, err := f.returnCopy(ctx, a); ctx.Err() != nil || err != nil {
			return
		}
	}
}

// Token returns what stands for a key in Waiting and Return.
func (f *Followers) Token(key string) string { return KeyToken(key) }

// MayWait reports whether d can be stored here: its sequence is one of the present stream.
func (f *Followers) MayWait(d *wire.Delivery) bool {
	return d.Stored.Incarnation == "" || d.Stored.Incarnation == f.s.Address(0).Incarnation
}

// mark stores the mark of a new owner, and removes those of earlier owners. DeleteDurable
// removes the marks after it has deleted the durable. So a mark that is stored later finds the
// durable gone, and removes itself.
func (f *Followers) mark(ctx context.Context) error {
	subject := f.s.Address(0).OwnerMark()
	ack, err := f.s.core.JetStream.Publish(ctx, subject, nil)
	if err != nil {
		return err
	}
	f.fence = ack.Sequence
	keepFrom := ack.Sequence
	_, gone := f.s.core.JetStream.Consumer(ctx, f.s.stream.Name, f.s.durable)
	if jserr.IsAbsent(gone) {
		keepFrom++
	} else {
		gone = nil
	}
	err = f.s.Retries.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(keepFrom))
	return errors.Join(gone, err)
}

// guard makes the server refuse out unless this process is the owner. Without a fence it does
// nothing.
func (f *Followers) guard(out *wire.Out) {
	delete(out.Header, wire.HeaderNatsExpectedLastSubjectSequence) // its subject may have a message
	if f.fence > 0 {
		ExpectLast(out, f.fence)
		out.Header[wire.HeaderNatsExpectedLastSubjectSequenceSubject] = []string{f.s.Address(0).OwnerMark()}
	}
}

// Put stores a copy of d. The caller acknowledges d afterwards.
func (f *Followers) Put(ctx context.Context, d *wire.Delivery) error {
	a := f.address(KeyToken(d.Stored.Key), d.Stored.Sequence)
	out := CopyOf(d, d.Stored.Attempt-1).Message(a.Subject(Later))
	f.guard(&out)
	return StoreCopy(inTraceOf(ctx, d), f.s.core, Later, out)
}

func (f *Followers) address(token string, sequence uint64) Address {
	a := f.s.Address(sequence)
	a.Key = token
	return a
}

// Return moves a follower to the messages that come back. found is false if it is not there.
// It may be called again after an error.
func (f *Followers) Return(ctx context.Context, token string, sequence uint64) (found bool, err error) {
	return f.returnCopy(ctx, f.address(token, sequence))
}

// returnCopy stores the copy with the subject of a Retry, then removes it. After a crash in
// between it finds the Retry, and only removes.
func (f *Followers) returnCopy(ctx context.Context, a Address) (found bool, err error) {
	ctx, cancel := f.s.core.WithTimeout(ctx)
	defer cancel()
	m, err := f.s.Retries.GetLastMsgForSubject(ctx, a.Subject(Later))
	if errors.Is(err, jetstream.ErrMsgNotFound) { // an earlier owner may have removed it at this moment
		return f.hasRetry(ctx, a, 0)
	}
	if err != nil {
		return false, err
	}
	if c, err := ParseCopy(wire.Header(m.Header), m.Data); err == nil { // else somebody else has put it there
		if err := f.storeRetry(ctx, a, c, m.Sequence); err != nil {
			return false, err
		}
		found = true
	}
	return found, f.s.Retries.Purge(ctx, jetstream.WithPurgeSubject(a.Subject(Later)), jetstream.WithPurgeSequence(m.Sequence+1))
}

// storeRetry stores c, which waits at a position in S-retry, as a Retry. An earlier Retry was
// acknowledged when c was stored, and is about to be removed. A later one is what an earlier
// call stored.
func (f *Followers) storeRetry(ctx context.Context, a Address, c *Copy, position uint64) error {
	if stored, err := f.hasRetry(ctx, a, position); err != nil || stored {
		return err
	}
	out := c.Message(a.Subject(Retry))
	f.guard(&out)
	return StoreCopy(ctx, f.s.core, Retry, out)
}

// hasRetry reports whether the last Retry at an address was stored after a position.
func (f *Followers) hasRetry(ctx context.Context, a Address, position uint64) (bool, error) {
	m, err := f.s.Retries.GetLastMsgForSubject(ctx, a.Subject(Retry))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	return err == nil && m.Sequence > position, err
}

// IsReturning reports whether a follower that Return moved has not been handled yet.
func (f *Followers) IsReturning(ctx context.Context, token string, sequence uint64) (bool, error) {
	ctx, cancel := f.s.core.WithTimeout(ctx)
	defer cancel()
	return f.hasRetry(ctx, f.address(token, sequence), 0)
}
