package sidestream

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
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
	waiting map[string][]intake.Follower
	strays  []Address
	anchor  anchor

	mayNotDelete atomic.Bool // the server has refused to delete one message: messages are purged instead
}

// OpenFollowers asks the server which followers of the durable wait. Without keyed, and in an
// earlier incarnation of the stream, they wait for nothing any more: they are strays.
//
// With fenced several processes share the durable, and this one owns it now. From now on the
// server refuses what an earlier owner stores: it has not the latest mark.
func (s *Store) OpenFollowers(ctx context.Context, keyed, fenced bool) (*Followers, error) {
	f := &Followers{s: s, waiting: make(map[string][]intake.Follower)}
	if fenced {
		if err := f.mark(ctx); err != nil {
			return nil, jserr.Wrap(RetryStream(s.stream.Name), "write", err)
		}
	}
	for _, read := range []func(context.Context, bool) error{f.readWaiting, f.readReturning} {
		if err := read(ctx, keyed); err != nil {
			return nil, jserr.Wrap(RetryStream(s.stream.Name), "read", err)
		}
	}
	return f, nil
}

// readWaiting reads which followers wait.
func (f *Followers) readWaiting(ctx context.Context, keyed bool) error {
	copies, err := f.copies(ctx, Later)
	if err != nil {
		return err
	}
	now := f.s.Address(0).Incarnation
	for subject, count := range copies {
		switch _, a, ok := ParseSubject(subject); {
		case isAnchor(subject):
			if err := f.s.Retries.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
				return err
			}
		case !ok || a.Key == "": // it has a time, and no key
		case keyed && a.Incarnation == now:
			f.waiting[a.Key] = append(f.waiting[a.Key], intake.Follower{Sequence: a.Sequence, Unsure: count > 1})
		default:
			f.strays = append(f.strays, a)
		}
	}
	for _, all := range f.waiting {
		slices.SortFunc(all, func(a, b intake.Follower) int { return cmp.Compare(a.Sequence, b.Sequence) })
	}
	return nil
}

// readReturning reads which of the followers that wait are coming back, too: a process ended
// while it returned them.
func (f *Followers) readReturning(ctx context.Context, keyed bool) error {
	if len(f.waiting) == 0 {
		return nil
	}
	copies, err := f.copies(ctx, Retry)
	for subject := range copies {
		_, a, _ := ParseSubject(subject)
		all := f.waiting[a.Key]
		i, found := slices.BinarySearchFunc(all, a.Sequence, func(one intake.Follower, s uint64) int { return cmp.Compare(one.Sequence, s) })
		if found {
			all[i].Unsure = true
		}
	}
	return err
}

// copies returns the number of copies of a kind on each subject of the durable.
func (f *Followers) copies(ctx context.Context, kind Kind) (map[string]uint64, error) {
	info, err := f.s.Retries.Info(ctx, jetstream.WithSubjectFilter(DurablePattern(kind, f.s.stream.Name, f.s.durable)))
	if err != nil {
		return nil, err
	}
	return info.State.Subjects, nil
}

// Waiting returns the followers that waited at the start, ascending, by the token of their key.
func (f *Followers) Waiting() map[string][]intake.Follower { return f.waiting }

// Strays reports whether there are messages for ReturnStrays.
func (f *Followers) Strays() bool { return len(f.strays) > 0 }

// firstStrayPause and lastStrayPause are between two rounds over the strays.
const (
	firstStrayPause = time.Second
	lastStrayPause  = time.Minute
)

// ReturnStrays moves the strays back to the durable, until ctx ends. The next start finds what
// is left. One that cannot be returned holds up no other: it is tried again in the next round. It logs
// those that cannot be read, which stay, and of the others the first one of a round, unless it was the
// last one that was logged.
func (f *Followers) ReturnStrays(ctx context.Context) {
	slices.SortFunc(f.strays, func(a, b Address) int { return cmp.Compare(a.Sequence, b.Sequence) })
	var logged Address
	for left, wait := f.strays, firstStrayPause; ; wait = min(2*wait, lastStrayPause) {
		var err error
		left, err = f.returnRound(ctx, left)
		if len(left) == 0 {
			return
		}
		if ctx.Err() == nil && left[0] != logged {
			logged = left[0]
			f.logStray(logged, err)
		}
		if jserr.IsWrongLastSequence(err) || !pause(ctx, wait) {
			return // another process is the owner, or it is the end
		}
	}
}

// returnRound returns each of the strays, and which could not be returned, with the error of the
// first. It ends when another process is the owner.
func (f *Followers) returnRound(ctx context.Context, strays []Address) (left []Address, first error) {
	for i, a := range strays {
		err := f.returnStray(ctx, a)
		_, odd := errors.AsType[*intake.UnreadableError](err)
		switch {
		case err == nil:
		case odd:
			f.logStray(a, err)
		case ctx.Err() != nil, jserr.IsWrongLastSequence(err):
			return append(left, strays[i:]...), err
		default:
			left = append(left, a)
			first = cmp.Or(first, err)
		}
	}
	return left, first
}

func (f *Followers) logStray(a Address, err error) {
	f.s.core.Logger.Warn("a message that waited behind a failing one of its key is not returned", "stream", a.Stream, "durable", a.Durable, "sequence", a.Sequence, "error", err)
}

func (f *Followers) returnStray(ctx context.Context, a Address) error {
	_, err := f.returnCopies(ctx, []returning{{Address: a, unsure: true}})
	return err
}

// pause waits for a while. It returns false if ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
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
// durable gone, and removes itself. Where marks cannot be removed it stores none: it is called again
// and again then.
func (f *Followers) mark(ctx context.Context) error {
	subject := f.s.Address(0).OwnerMark()
	if err := f.s.Retries.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeKeep(1)); err != nil {
		return err
	}
	var ack *jetstream.PubAck
	err := f.s.core.WithReserve(ctx, 0, func() (err error) {
		ack, err = f.s.core.JetStream.Publish(ctx, subject, nil)
		return err
	})
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

// Put stores a copy of d. The caller acknowledges d afterwards. After an error the copy may be
// stored. It leaves one half of the reserve of a full server to Return: what is stored takes
// room until it has returned.
func (f *Followers) Put(ctx context.Context, d *wire.Delivery) error {
	a := f.address(KeyToken(d.Stored.Key), d.Stored.Sequence)
	c := CopyOf(d, d.Stored.Attempt-1)
	out := c.Message(a.Subject(Later))
	if full := (&outlet.Message{Out: out}).Size(); full <= f.s.core.Link.MaxPayload() { // else it could not come back
		c.shorten(&out)
	}
	return f.store(inTraceOf(ctx, d), f.s.core.WithHalfReserve, Later, out)
}

// withReserve is core.Core.WithReserve or WithHalfReserve.
type withReserve func(ctx context.Context, size int, fn func() error) error

// store stores out, of Copy.Message. It does not repeat that where the answer is lost with the
// connection: what is stored twice must be known as such.
func (f *Followers) store(ctx context.Context, with withReserve, kind Kind, out wire.Out) error {
	f.guard(&out)
	ctx, done := f.s.core.Bound(ctx)
	defer done()
	ctx, end := f.s.core.Link.WhileConnected(ctx)
	defer end()
	m := outlet.Message{Out: out, Copy: Prefix(kind)}
	return with(ctx, m.Size(), func() error {
		_, err := f.s.core.Outlet.Store(ctx, &m)
		return err
	})
}

func (f *Followers) address(token string, sequence uint64) Address {
	a := f.s.Address(sequence)
	a.Key = token
	return a
}

// Return moves followers of a key to the messages that come back, in this order. With last no
// others wait. found has an element for each that was moved: whether it was there. It may be
// called again after an error, with the others as unsure ones.
func (f *Followers) Return(ctx context.Context, token string, all []intake.Follower, last bool) (found []bool, err error) {
	copies := make([]returning, len(all))
	for i, one := range all {
		copies[i] = returning{Address: f.address(token, one.Sequence), unsure: one.Unsure}
	}
	if err := f.anchor.renew(ctx, f, len(all)); err != nil {
		return nil, err
	}
	moved, err := f.returnCopies(ctx, copies)
	if err == nil && last {
		err = f.anchor.remove(ctx, f)
	}
	for i := range copies[:moved] {
		found = append(found, copies[i].found)
	}
	return found, err
}

// AreReturning has an element for each follower of a key: whether Return has moved it and it is not
// handled yet. After an error it has fewer, those of the first ones.
func (f *Followers) AreReturning(ctx context.Context, token string, sequences []uint64) (there []bool, err error) {
	all := make([]returning, len(sequences))
	for i := range all {
		all[i].Address = f.address(token, sequences[i])
	}
	done, err := f.each(ctx, all, func(ctx context.Context, r *returning) (err error) {
		r.found, err = f.hasRetry(ctx, r.Address, 0)
		return err
	})
	for i := range all[:done] {
		there = append(there, all[i].found)
	}
	return there, err
}
