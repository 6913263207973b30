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
// Retry, from where it comes back to the durable. It implements intake.Followers. Safe for
// concurrent use.
type Followers struct {
	s       *Store
	waiting map[string][]uint64
	strays  []Address
}

// OpenFollowers asks the server which followers of the durable wait. Without keyed, and in an
// earlier incarnation of the stream, they wait for nothing any more: they are strays.
func (s *Store) OpenFollowers(ctx context.Context, keyed bool) (*Followers, error) {
	f := &Followers{s: s, waiting: make(map[string][]uint64)}
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

// Put stores a copy of d, unless it is stored already. The caller acknowledges d afterwards.
func (f *Followers) Put(ctx context.Context, d *wire.Delivery) error {
	return f.s.put(inTraceOf(ctx, d), Later, d, func(a Address) wire.Out {
		return CopyOf(d, d.Stored.Attempt-1).Message(a.Subject(Later))
	})
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
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c, err := ParseCopy(wire.Header(m.Header), m.Data)
	if err != nil { // somebody else has put it there
		return false, f.s.Retries.DeleteMsg(ctx, m.Sequence)
	}
	if err := f.storeRetry(ctx, c.Message(a.Subject(Retry)), m.Sequence); err != nil {
		return false, err
	}
	if err := f.s.Retries.DeleteMsg(ctx, m.Sequence); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, err
	}
	return true, nil
}

// storeRetry stores out, whose copy waits at a position in S-retry. An earlier message with
// the subject of out was acknowledged when that copy was stored, and is about to be removed:
// out goes after it. A later one is what an earlier call stored.
func (f *Followers) storeRetry(ctx context.Context, out wire.Out, position uint64) error {
	err := StoreCopy(ctx, f.s.core, Retry, out)
	if !jserr.IsWrongLastSequence(err) {
		return err
	}
	last, err := f.s.Retries.GetLastMsgForSubject(ctx, out.Subject)
	if err != nil {
		return err
	}
	if last.Sequence > position {
		return nil
	}
	ExpectLast(&out, last.Sequence)
	return StoreCopy(ctx, f.s.core, Retry, out)
}

// IsReturning reports whether a follower that Return moved has not been handled yet.
func (f *Followers) IsReturning(ctx context.Context, token string, sequence uint64) (bool, error) {
	ctx, cancel := f.s.core.WithTimeout(ctx)
	defer cancel()
	_, err := f.s.Retries.GetLastMsgForSubject(ctx, f.address(token, sequence).Subject(Retry))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Drop removes a follower that has come back in another way.
func (f *Followers) Drop(ctx context.Context, token string, sequence uint64) error {
	ctx, cancel := f.s.core.WithTimeout(ctx)
	defer cancel()
	return purge(ctx, f.s.Retries, f.address(token, sequence).Subject(Later))
}
