package sidestream

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// follower returns a message of S with a key that has not failed.
func follower(key string, sequence uint64) *wire.Delivery {
	d := failedDelivery(sequence)
	d.Stored.Key, d.Stored.Attempt, d.Stored.Dead = key, 1, nil
	return d
}

// openFollowers opens the followers of s as a new process would.
func openFollowers(t *testing.T, s *Store, keyed, fenced bool) *Followers {
	t.Helper()
	f, err := s.OpenFollowers(t.Context(), keyed, fenced)
	must(t, err)
	return f
}

// put stores followers of a key.
func put(t *testing.T, f *Followers, key string, sequences ...uint64) {
	t.Helper()
	for _, sequence := range sequences {
		must(t, f.Put(t.Context(), follower(key, sequence)))
	}
}

// mustReturn returns followers of a key, and fails the test unless found is the result.
func mustReturn(t *testing.T, f *Followers, key string, all []intake.Follower, found ...bool) {
	t.Helper()
	got, err := f.Return(t.Context(), f.Token(key), all, false)
	must(t, err)
	if !slices.Equal(got, found) {
		t.Errorf("Return found %v, want %v", got, found)
	}
}

// subjectsOf returns the subjects of the copies of a kind with these sequences.
func subjectsOf(s *Store, kind Kind, key string, sequences ...uint64) (all []string) {
	for _, sequence := range sequences {
		a := s.Address(sequence)
		a.Key = KeyToken(key)
		all = append(all, a.Subject(kind))
	}
	return all
}

func sure(sequences ...uint64) (all []intake.Follower) {
	for _, sequence := range sequences {
		all = append(all, intake.Follower{Sequence: sequence})
	}
	return all
}

// Followers come back in the order in which they are returned, with what they were.
func TestFollowersReturn(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	f := openFollowers(t, s, true, false)
	var sequences []uint64
	for sequence := uint64(1); sequence <= 40; sequence++ {
		sequences = append(sequences, sequence)
	}
	put(t, f, "a", sequences...)
	put(t, f, "b", 41)
	if got := openFollowers(t, s, true, false).Waiting(); len(got) != 2 || !slices.Equal(got[KeyToken("a")], sure(sequences...)) || !slices.Equal(got[KeyToken("b")], sure(41)) {
		t.Errorf("the next process finds %v", got)
	}
	mustReturn(t, f, "a", sure(sequences...), slices.Repeat([]bool{true}, 40)...)
	mustHave(t, c, "S-retry", slices.Concat(subjectsOf(s, Retry, "a", sequences...), subjectsOf(s, Later, "b", 41), []string{s.Address(0).Anchor()})...)
	var order []uint64
	for position := uint64(1); len(order) < 40; {
		m, err := s.Retries.GetMsg(t.Context(), position, jetstream.WithGetMsgSubject(Pattern(Retry, "S")))
		must(t, err)
		d := &wire.Delivery{In: wire.In{Subject: m.Subject, Header: wire.Header(m.Header), Data: m.Data}, Stored: new(wire.Stored)}
		must(t, s.Source().Restore(d))
		if d.Subject != "s.a" || string(d.Data) != "x" || d.Stored.Attempt != 1 {
			t.Errorf("got %+v, %+v", d, d.Stored)
		}
		order, position = append(order, d.Stored.Sequence), m.Sequence+1
	}
	if !slices.Equal(order, sequences) {
		t.Errorf("they come back as %v", order)
	}
	if got, err := f.AreReturning(t.Context(), KeyToken("a"), []uint64{1, 41, 40}); err != nil || !slices.Equal(got, []bool{true, false, true}) {
		t.Errorf("are returning: %v, %v", got, err)
	}
}

// Several followers are asked about together, and no more after one had no answer.
func TestManyFollowersAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	f := openFollowers(t, s, true, false)
	down := errors.New("down")
	var calls atomic.Int64
	together := make(chan struct{})
	done, err := f.each(t.Context(), make([]returning, 1000), func(ctx context.Context, _ *returning) error {
		if calls.Add(1) == maxReads {
			close(together)
		}
		select {
		case <-together:
			return down
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if done != 0 || err != down || calls.Load() > 2*maxReads {
		t.Errorf("%d succeeded, %v, after %d calls", done, err, calls.Load())
	}
}

// A process dies at each step of storing and returning a follower. The next one finds the
// follower, returns it once, and leaves nothing behind.
func TestFollowersAfterACrash(t *testing.T) {
	t.Parallel()
	retry := func(t *testing.T, s *Store, c *core.Core) {
		out := CopyOf(follower("a", 1), 0).Message(subjectsOf(s, Retry, "a", 1)[0])
		must(t, StoreCopy(t.Context(), c, Retry, out))
	}
	for name, until := range map[string]func(t *testing.T, s *Store, f *Followers, c *core.Core) (unsure bool){
		"stored": func(t *testing.T, _ *Store, f *Followers, _ *core.Core) bool {
			put(t, f, "a", 1)
			return false
		},
		"stored again": func(t *testing.T, _ *Store, f *Followers, _ *core.Core) bool {
			put(t, f, "a", 1, 1)
			return true
		},
		"returned, not removed": func(t *testing.T, s *Store, f *Followers, c *core.Core) bool {
			put(t, f, "a", 1)
			retry(t, s, c)
			return true
		},
		"returned, and stored again": func(t *testing.T, s *Store, f *Followers, c *core.Core) bool {
			put(t, f, "a", 1, 1)
			retry(t, s, c)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := open(t)
			unsure := until(t, s, openFollowers(t, s, true, false), c)
			f := openFollowers(t, s, true, false)
			all := f.Waiting()[KeyToken("a")]
			if !slices.Equal(all, []intake.Follower{{Sequence: 1, Unsure: unsure}}) {
				t.Errorf("the next process finds %v", all)
			}
			mustReturn(t, f, "a", all, true)
			mustHave(t, c, "S-retry", subjectsOf(s, Retry, "a", 1)...)
			mustReturn(t, f, "a", []intake.Follower{{Sequence: 1, Unsure: true}}, true) // as after a lost answer
			mustHave(t, c, "S-retry", subjectsOf(s, Retry, "a", 1)...)
		})
	}
}

// What came back, and is stored again before its settlement arrived, returns behind that.
func TestFollowersStoredAgain(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	f := openFollowers(t, s, true, false)
	put(t, f, "a", 1)
	mustReturn(t, f, "a", sure(1), true)
	put(t, f, "a", 1)
	mustReturn(t, f, "a", []intake.Follower{{Sequence: 1, Unsure: true}}, true)
	info, err := c.JetStream.Stream(t.Context(), "S-retry")
	must(t, err)
	if got := info.CachedInfo().State; got.Msgs != 2 || got.NumSubjects != 1 {
		t.Errorf("S-retry has %d messages on %d subjects, want the old one and the new one", got.Msgs, got.NumSubjects)
	}
}

// What is stored after a copy was read is not removed with it, and a removal that is repeated
// removes nothing else.
func TestFollowersStoredWhileOneReturns(t *testing.T) {
	t.Parallel()
	for _, unsure := range []bool{false, true} {
		s, c := open(t)
		f := openFollowers(t, s, true, false)
		put(t, f, "a", 1)
		r := returning{Address: f.address(KeyToken("a"), 1), unsure: unsure}
		must(t, f.read(t.Context(), &r))
		put(t, f, "a", 1)
		for range 2 {
			must(t, f.remove(t.Context(), &r))
			mustHave(t, c, "S-retry", subjectsOf(s, Later, "a", 1)...)
		}
		m, err := s.Retries.GetLastMsgForSubject(t.Context(), subjectsOf(s, Later, "a", 1)[0])
		must(t, err)
		if m.Sequence <= r.position {
			t.Errorf("the copy at %d is left, want the one after %d", m.Sequence, r.position)
		}
	}
}

// A server that has lost its last messages gives their positions to others. A removal that is
// repeated then does not remove those.
func TestFollowersWhosePositionsOthersHave(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	f := openFollowers(t, s, true, false)
	put(t, f, "a", 1)
	r := returning{Address: f.address(KeyToken("a"), 1)}
	must(t, f.read(t.Context(), &r))
	must(t, f.remove(t.Context(), &r)) // the reply is lost
	put(t, f, "b", 2)
	m, err := s.Retries.GetLastMsgForSubject(t.Context(), subjectsOf(s, Later, "b", 2)[0])
	must(t, err)
	r.position = m.Sequence
	must(t, f.remove(t.Context(), &r))
	mustHave(t, c, "S-retry", subjectsOf(s, Later, "b", 2)...)
}

// What somebody has removed is not found.
func TestFollowersThatAreGone(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	f := openFollowers(t, s, true, false)
	put(t, f, "a", 1, 3)
	must(t, s.Retries.Purge(t.Context(), jetstream.WithPurgeSubject(subjectsOf(s, Later, "a", 1)[0])))
	mustReturn(t, f, "a", sure(1, 2, 3), false, false, true)
	mustHave(t, c, "S-retry", subjectsOf(s, Retry, "a", 3)...)
}

// A copy that another version of the library wrote stays, with those behind it, and the error says
// which it is. As soon as it can be read, or is gone, the others return.
func TestFollowersThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	f := openFollowers(t, s, true, false)
	put(t, f, "a", 1)
	_, err := c.JetStream.PublishMsg(t.Context(), &nats.Msg{Subject: subjectsOf(s, Later, "a", 2)[0], Header: nats.Header{headerFollower: {"v2"}}, Data: []byte("x")})
	must(t, err)
	put(t, f, "a", 3)
	found, err := f.Return(t.Context(), KeyToken("a"), sure(1, 2, 3), false)
	why, ok := errors.AsType[*intake.UnreadableError](err)
	if !ok || !slices.Equal(found, []bool{true}) || why.Stream != "S-retry" || why.Position != 2 || why.Sequence != 2 || why.Key != KeyToken("a") {
		t.Errorf("Return: %v, %#v", found, err)
	}
	mustHave(t, c, "S-retry", append(subjectsOf(s, Retry, "a", 1), subjectsOf(s, Later, "a", 2, 3)...)...)
	strays := openFollowers(t, s, false, false)
	strays.ReturnStrays(t.Context())
	mustHave(t, c, "S-retry", append(subjectsOf(s, Retry, "a", 1, 3), subjectsOf(s, Later, "a", 2)...)...)
	must(t, s.Retries.DeleteMsg(t.Context(), why.Position))
	mustReturn(t, f, "a", []intake.Follower{{Sequence: 2, Unsure: true}, {Sequence: 3, Unsure: true}}, false, true)
}

// What comes back and has a header of the library is kept if it cannot be read. What has none is
// rejected.
func TestRestoreWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	for _, tc := range []struct {
		header wire.Header
		a      Address
		want   *intake.UnreadableError
	}{
		{wire.Header{"X": {"1"}}, s.Address(7), nil},
		{wire.Header{"Bus-Version": {"2"}}, s.Address(7), &intake.UnreadableError{Stream: "S-retry", Position: 9, Sequence: 7}},
		{wire.Header{headerFollower: {"2"}}, Address{Stream: "S", Durable: "d", Incarnation: "before", Sequence: 7, Key: "k"}, &intake.UnreadableError{Stream: "S-retry", Position: 9}},
	} {
		d := &wire.Delivery{In: wire.In{Subject: tc.a.Subject(Retry), Header: tc.header}, Stored: &wire.Stored{Sequence: 9}}
		err := s.restore(d)
		got, _ := errors.AsType[*intake.UnreadableError](err)
		if err == nil || (got == nil) != (tc.want == nil) || got != nil && (got.Position != tc.want.Position || got.Sequence != tc.want.Sequence || got.Stream != tc.want.Stream || got.Key != tc.want.Key) {
			t.Errorf("%v: %#v", tc.header, err)
		}
	}
}

// Followers of a durable without keys, and of an earlier stream, wait for nothing.
func TestFollowersThatAreStrays(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	put(t, openFollowers(t, s, true, false), "a", 1, 2, 3)
	if openFollowers(t, s, true, false).Strays() {
		t.Error("there are strays")
	}
	f := openFollowers(t, s, false, false)
	if !f.Strays() || len(f.Waiting()) > 0 {
		t.Errorf("strays: %v, waiting: %v", f.Strays(), f.Waiting())
	}
	f.ReturnStrays(t.Context())
	mustHave(t, c, "S-retry", subjectsOf(s, Retry, "a", 1, 2, 3)...)
}

// An owner that another process has replaced stores and returns nothing.
func TestFollowersOfAnEarlierOwner(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	_, err := c.JetStream.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "d"})
	must(t, err)
	before := openFollowers(t, s, true, true)
	put(t, before, "a", 1)
	now := openFollowers(t, s, true, true)
	if err := before.Put(t.Context(), follower("a", 2)); !jserr.IsWrongLastSequence(err) {
		t.Errorf("Put: %v", err)
	}
	if found, err := before.Return(t.Context(), KeyToken("a"), sure(1), false); len(found) > 0 || !jserr.IsWrongLastSequence(err) {
		t.Errorf("Return: %v, %v", found, err)
	}
	mustHave(t, c, "S-retry", append(subjectsOf(s, Later, "a", 1), s.Address(0).OwnerMark())...)
	mustReturn(t, now, "a", now.Waiting()[KeyToken("a")], true)
	put(t, now, "a", 2)
	mustHave(t, c, "S-retry", append(append(subjectsOf(s, Later, "a", 2), subjectsOf(s, Retry, "a", 1)...), s.Address(0).OwnerMark())...)
}

// The mark of an owner whose durable is gone does not stay.
func TestFollowersOfADurableThatIsGone(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	if _, err := s.OpenFollowers(t.Context(), true, true); !jserr.IsAbsent(err) {
		t.Errorf("got %v", err)
	}
	mustHave(t, c, "S-retry")
}

// A part of what is returned fails. The result says which.
func TestFollowersReturnInPart(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	f := openFollowers(t, s, true, false)
	put(t, f, "a", 1, 3)
	large := follower("a", 2)
	large.Data = make([]byte, 2000)
	must(t, f.Put(t.Context(), large))
	limited := s.Retries.CachedInfo().Config
	limited.MaxMsgSize = 1000
	_, err := c.JetStream.UpdateStream(t.Context(), limited)
	must(t, err)
	found, err := f.Return(t.Context(), KeyToken("a"), sure(1, 2, 3), false)
	if err == nil || !slices.Equal(found, []bool{true}) {
		t.Errorf("got %v, %v", found, err)
	}
	mustHave(t, c, "S-retry", append(subjectsOf(s, Retry, "a", 1), subjectsOf(s, Later, "a", 2, 3)...)...)
}

// On disk an anchor keeps the last block of S-retry from being empty. It goes with the last
// follower, or at the next start.
func TestFollowersAnchor(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	f := openFollowers(t, s, true, false)
	for sequence := uint64(1); sequence <= 64; sequence++ {
		put(t, f, "a", sequence)
	}
	back := func(from, to uint64, last bool) {
		for from <= to {
			n := min(to-from+1, 16)
			var all []intake.Follower
			for range n {
				all = append(all, intake.Follower{Sequence: from})
				from++
			}
			_, err := f.Return(t.Context(), KeyToken("a"), all, last && from > to)
			must(t, err)
		}
		must(t, s.Retries.Purge(t.Context(), jetstream.WithPurgeSubject(Pattern(Retry, "S")))) // they are handled
	}
	back(1, 8, false)
	m, err := s.Retries.GetLastMsgForSubject(t.Context(), s.Address(0).Anchor())
	if !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("few followers have an anchor: %v, %v", m, err)
	}
	back(9, 40, false)
	m, err = s.Retries.GetLastMsgForSubject(t.Context(), s.Address(0).Anchor())
	must(t, err)
	info, err := s.Retries.Info(t.Context())
	must(t, err)
	if got := info.State; got.Msgs != 24+1 || m.Sequence+16 < got.LastSeq {
		t.Errorf("of %d messages up to %d the anchor is %d", got.Msgs, got.LastSeq, m.Sequence)
	}
	openFollowers(t, s, true, false)
	mustHave(t, c, "S-retry", subjectsOf(s, Later, "a", 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64)...)
	back(41, 64, true)
	mustHave(t, c, "S-retry")
}

// A stray that cannot be returned, since it would be too large, holds up no other.
func TestStrayThatCannotReturn(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	_, err := c.JetStream.PublishMsg(t.Context(), &nats.Msg{Subject: subjectsOf(s, Later, "a", 3)[0],
		Header: nats.Header{headerFollower: {"1 0 s"}}, Data: make([]byte, c.Link.MaxPayload()-64)})
	must(t, err)
	put(t, openFollowers(t, s, true, false), "a", 7)
	f := openFollowers(t, s, false, false)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var returns sync.WaitGroup
	defer returns.Wait()
	defer cancel()
	returns.Go(func() { f.ReturnStrays(ctx) })
	err = jetstream.ErrMsgNotFound
	for errors.Is(err, jetstream.ErrMsgNotFound) {
		_, err = s.Retries.GetLastMsgForSubject(ctx, subjectsOf(s, Retry, "a", 7)[0])
	}
	must(t, err)
}
