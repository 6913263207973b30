package intake

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

// noFollowers is a store of followers whose calls a test plays itself. Sequences above 100 are
// those of another stream.
type noFollowers struct{ waiting map[string][]Follower }

func (s noFollowers) Waiting() map[string][]Follower            { return s.waiting }
func (s noFollowers) Token(key string) string                   { return "token of " + key }
func (s noFollowers) MayWait(d *wire.Delivery) bool             { return d.Stored.Sequence <= 100 }
func (s noFollowers) Put(context.Context, *wire.Delivery) error { return errors.New("not called") }
func (s noFollowers) Return(context.Context, string, []Follower, bool) ([]bool, error) {
	return nil, errors.New("not called")
}
func (s noFollowers) AreReturning(context.Context, string, []uint64) ([]bool, error) {
	return nil, errors.New("not called")
}

// newTestFollowers returns followers that start no worker, behind an open barrier. No handler is called.
func newTestFollowers(waiting map[string][]Follower) *followers {
	d := &Durable{cfg: DurableConfig{More: []Source{{}}, Followers: noFollowers{waiting}}, wake: make(chan struct{}, 1)}
	d.pullers = []*puller{{Source: Source{MaxHeld: 1000}}, {Source: Source{MaxHeld: 1000}, index: 1}}
	d.queue = dispatch.New(1, func(wire.Delivery) {})
	d.queue.Quiesce()
	k := newKeyed(d)
	for i := range k.sources {
		k.sources[i].barrier.open = true
	}
	k.followers.puts.pause, k.followers.moves.pause = time.Now().Add(time.Hour), time.Now().Add(time.Hour)
	return k.followers
}

// fromSource is a message of key k from a source.
func fromSource(source int, sequence uint64) *wire.Delivery {
	return &wire.Delivery{Stored: &wire.Stored{Source: source, Sequence: sequence, Key: "k"}}
}

const tokenOfK = "token of k"

// have returns the followers of key k: their sequences, and their states as letters: p storing,
// s stored, r returning, R returned, then u where they cannot be read, and an exclamation mark where they
// are unsure.
func (f *followers) have() (all []uint64, states string) {
	if kf := f.keys[tokenOfK]; kf != nil {
		for _, one := range kf.all {
			all, states = append(all, one.sequence), states+string("psrR"[one.state])
			if one.unread {
				states += "u"
			}
			if one.unsure {
				states += "!"
			}
		}
	}
	return all, states
}

func (f *followers) mustHave(t *testing.T, states string, sequences ...uint64) {
	t.Helper()
	if all, got := f.have(); got != states || !slices.Equal(all, sequences) || f.count != len(sequences) {
		t.Errorf("the followers are %v %q (%d), want %v %q", all, got, f.count, sequences, states)
	}
}

// mustAdmit fails the test unless a message that comes is a follower, or is none.
func (f *followers) mustAdmit(t *testing.T, d *wire.Delivery, want bool) {
	t.Helper()
	if got := f.admitLocked(d); got != want {
		t.Errorf("message %d of source %d is a follower: %t", d.Stored.Sequence, d.Stored.Source, got)
	}
}

// A follower is stored, returns, and comes back.
func TestFollowerStates(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(nil)
	f.mustAdmit(t, fromSource(0, 3), false) // the key has no followers
	kf := new(keyFollowers)
	f.keys[tokenOfK] = kf
	f.putLocked(kf, *fromSource(0, 5))
	f.mustAdmit(t, fromSource(0, 4), false) // before them
	f.mustAdmit(t, fromSource(0, 7), true)
	f.mustAdmit(t, fromSource(0, 6), true)
	f.mustAdmit(t, fromSource(0, 101), false) // it cannot be stored
	f.mustHave(t, "p", 5)
	f.storeAllBehindLocked()
	f.mustHave(t, "ppp", 5, 6, 7)
	if len(f.queue) != 3 || f.storedCountLocked() != 0 {
		t.Errorf("%d are to be stored, %d are", len(f.queue), f.storedCountLocked())
	}
	f.storedLocked(tokenOfK, 5)
	f.storedLocked(tokenOfK, 7)
	if next, last := f.beginReturn(tokenOfK); !slices.Equal(next, []Follower{{Sequence: 5}}) || last {
		t.Errorf("%v return, the last: %t; 6 is not stored yet", next, last)
	}
	f.endReturn(tokenOfK, []Follower{{Sequence: 5}}, []bool{true}, nil)
	f.storedLocked(tokenOfK, 6)
	next, last := f.beginReturn(tokenOfK)
	if !slices.Equal(next, []Follower{{Sequence: 6}, {Sequence: 7}}) || !last {
		t.Errorf("%v return, the last: %t", next, last)
	}
	f.mustHave(t, "Rrr", 5, 6, 7)
	f.endReturn(tokenOfK, next, []bool{true, true}, nil)
	f.mustHave(t, "RRR", 5, 6, 7)
	for sequence := uint64(5); sequence <= 7; sequence++ {
		d := fromSource(1, sequence)
		f.mustAdmit(t, d, false)
		if !d.Stored.Unbegun {
			t.Errorf("%d needs a crash mark", sequence)
		}
	}
	f.mustHave(t, "")
	f.mustAdmit(t, fromSource(0, 8), false)
}

// What comes behind stored followers waits here, and enters the lane when the last of them has come
// back, or is found to be gone. It is stored before a later message is.
func TestMessagesWaitBehindFollowers(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(map[string][]Follower{tokenOfK: {{Sequence: 5}, {Sequence: 6}}})
	f.k.lanes.Open()
	for _, sequence := range []uint64{9, 7, 8} {
		f.mustAdmit(t, fromSource(0, sequence), true)
	}
	if len(f.queue) > 0 || f.hereLocked(0) != 3 || f.hereLocked(1) != 0 || f.storedCountLocked() != 2 {
		t.Errorf("%d are to be stored, %d wait here, %d are stored", len(f.queue), f.hereLocked(0), f.storedCountLocked())
	}
	f.mustHave(t, "ss", 5, 6)
	next, last := f.beginReturn(tokenOfK)
	if len(next) != 2 || !last {
		t.Errorf("%v return, the last: %t", next, last)
	}
	f.endReturn(tokenOfK, next, []bool{true, true}, nil)
	if !f.k.enterLocked(*fromSource(1, 5)) || f.k.lanes.Behind("k") > 0 {
		t.Error("5 does not run")
	}
	if f.k.enterLocked(*fromSource(1, 6)) || f.k.lanes.Behind("k") != 4 || f.hereLocked(0) > 0 {
		t.Errorf("%d wait in the lane, %d wait here", f.k.lanes.Behind("k"), f.hereLocked(0))
	}
	for want := uint64(6); want <= 9; want++ {
		if del, ok := f.k.lanes.Next("k"); !ok || del.Stored.Sequence != want {
			t.Errorf("after it comes %v, want %d", del.Stored, want)
		}
	}
	f.mustHave(t, "")
}

func TestMessagesWaitBehindFollowersThatAreGone(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(map[string][]Follower{tokenOfK: {{Sequence: 5}}})
	f.k.lanes.Open()
	f.mustAdmit(t, fromSource(0, 7), true)
	f.mustAdmit(t, fromSource(0, 8), true)
	next, _ := f.beginReturn(tokenOfK)
	f.endReturn(tokenOfK, next, []bool{false}, nil)
	if ready, _ := f.k.d.queue.Backlog(); ready != 1 || f.k.lanes.Behind("k") != 1 || f.hereLocked(0) > 0 {
		t.Errorf("%d may run, %d wait in the lane, %d wait here", ready, f.k.lanes.Behind("k"), f.hereLocked(0))
	}
}

func TestMessagesBehindFollowersAreStoredFirst(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(map[string][]Follower{tokenOfK: {{Sequence: 5}}})
	f.mustAdmit(t, fromSource(0, 7), true)
	f.mustAdmit(t, fromSource(0, 8), true)
	f.mustAdmit(t, fromSource(1, 9), true) // it came back once, and stays in its place
	f.mustHave(t, "sppp", 5, 7, 8, 9)
	if f.hereLocked(0) > 0 {
		t.Errorf("%d wait here", f.hereLocked(0))
	}
	f.mustAdmit(t, fromSource(0, 10), true)
	f.mustAdmit(t, fromSource(0, 6), true) // late
	f.mustHave(t, "spppp", 5, 6, 7, 8, 9)
	if left := f.stop(); len(left) != 5 || left[4].Stored.Sequence != 10 || f.hereLocked(0) > 0 {
		t.Errorf("%v are left", left)
	}
}

// What may be stored twice, or may be coming back, is an unsure one.
func TestUnsureFollowers(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(map[string][]Follower{tokenOfK: {{Sequence: 5}, {Sequence: 6, Unsure: true}, {Sequence: 7}, {Sequence: 8}}})
	f.mustHave(t, "ss!ss", 5, 6, 7, 8)
	f.mustAdmit(t, fromSource(0, 5), true) // its acknowledgement did not arrive
	f.mustAdmit(t, fromSource(0, 5), true)
	f.storedLocked(tokenOfK, 5)
	f.mustHave(t, "p!s!ss", 5, 6, 7, 8)
	f.storedLocked(tokenOfK, 5)
	next, _ := f.beginReturn(tokenOfK)
	if len(next) != 4 || !next[0].Unsure || !next[1].Unsure || next[2].Unsure {
		t.Errorf("%v return", next)
	}
	f.endReturn(tokenOfK, next, []bool{true, false}, nil) // 6 was removed, then the server failed
	f.mustHave(t, "R!s!s!", 5, 7, 8)
	f.mustAdmit(t, fromSource(1, 7), true) // it comes back all the same, before 5
	f.mustHave(t, "R!p!s!", 5, 7, 8)
	d := fromSource(1, 5)
	f.mustAdmit(t, d, false)
	if d.Stored.Unbegun {
		t.Error("an unsure one needs no crash mark")
	}
	f.mustHave(t, "p!s!", 7, 8)
}

// A follower that is stored again while it returns is one follower.
func TestFollowerStoredAgainWhileItReturns(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(map[string][]Follower{tokenOfK: {{Sequence: 5}, {Sequence: 6}}})
	next, _ := f.beginReturn(tokenOfK)
	f.endReturn(tokenOfK, next, []bool{true, true}, nil)
	f.mustAdmit(t, fromSource(1, 6), true) // 5 has not come
	f.mustHave(t, "Rp!", 5, 6)
	if kf := f.keys[tokenOfK]; kf.returning != 1 {
		t.Errorf("%d are returning", kf.returning)
	}
	f.storedLocked(tokenOfK, 6)
	f.mustAdmit(t, fromSource(1, 5), false)
	if next, _ := f.beginReturn(tokenOfK); !slices.Equal(next, []Follower{{Sequence: 6, Unsure: true}}) {
		t.Errorf("%v return", next)
	}
}

// What comes back before its Return has ended waits for the result: it runs only if its copy is
// gone, and else it is stored once more. So no copy is left of what was handled.
func TestFollowersThatAreEarly(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		found   []bool
		states  string
		left    []uint64
		waiting int // in the lane, behind none
		put     []uint64
	}{
		"all are removed":   {[]bool{true, true, true}, "", nil, 3, nil},
		"one is removed":    {[]bool{true}, "p!p!", []uint64{6, 7}, 1, []uint64{6, 7}},
		"none is removed":   {nil, "p!p!p!", []uint64{5, 6, 7}, 0, []uint64{5, 6, 7}},
		"one was not found": {[]bool{false, true, true}, "", nil, 3, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newTestFollowers(map[string][]Follower{tokenOfK: {{Sequence: 5}, {Sequence: 6}, {Sequence: 7}}})
			next, _ := f.beginReturn(tokenOfK)
			for sequence := uint64(5); sequence <= 7; sequence++ {
				f.mustAdmit(t, fromSource(1, sequence), true)
			}
			f.mustHave(t, "rrr", 5, 6, 7)
			if got := f.hereLocked(1); got != 3 || f.hereLocked(0) != 0 || f.k.lanes.Waiting(1) != 0 {
				t.Errorf("%d are early", got)
			}
			f.endReturn(tokenOfK, next, tc.found, nil)
			f.mustHave(t, tc.states, tc.left...)
			var put []uint64
			for _, d := range f.queue {
				put = append(put, d.Stored.Sequence)
			}
			if waiting := f.k.lanes.Waiting(1); waiting != tc.waiting || !slices.Equal(put, tc.put) || f.hereLocked(1) != 0 {
				t.Errorf("%d wait in the lane, %v are to be stored, %d are early", waiting, put, f.hereLocked(1))
			}
		})
	}
}

// A follower that cannot be read keeps those behind it, is reported once, and is looked at again.
// So does one that came back.
func TestFollowersThatCannotBeRead(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(map[string][]Follower{tokenOfK: {{Sequence: 5}, {Sequence: 6}, {Sequence: 7}}})
	next, _ := f.beginReturn(tokenOfK)
	why := &UnreadableError{Stream: "S-retry", Position: 9, Sequence: 6, Key: tokenOfK, Err: errors.New("odd")}
	f.endReturn(tokenOfK, next, []bool{true}, why)
	f.mustHave(t, "Rs!s!", 5, 6, 7)
	kf := f.keys[tokenOfK]
	var reported atomic.Int64
	f.k.d.cfg.Report = func(error) { reported.Add(1) }
	for range 2 {
		f.k.d.mu.Lock()
		f.unreadableLocked(kf, why)
		f.k.d.mu.Unlock()
	}
	f.k.d.awaitReported(t.Context())
	if err := f.stalledLocked(); !errors.Is(err, why) || reported.Load() != 1 {
		t.Errorf("stalled: %v, %d reports", err, reported.Load())
	}
	if next, _ := f.beginReturn(tokenOfK); len(next) > 0 {
		t.Errorf("%v return", next)
	}
	kf.unreadable.look = time.Now()
	if next, _ = f.beginReturn(tokenOfK); len(next) != 2 {
		t.Errorf("%v return", next)
	}
	f.endReturn(tokenOfK, next, []bool{false, true}, nil)
	f.mustHave(t, "RR!", 5, 7)
	if err := f.stalledLocked(); err != nil {
		t.Errorf("stalled: %v", err)
	}
	f.keepLocked(&UnreadableError{Sequence: 7, Key: tokenOfK})
	f.mustAdmit(t, fromSource(1, 5), false)
	f.mustAdmit(t, fromSource(0, 8), true)
	f.storedLocked(tokenOfK, 8)
	if next, _ := f.beginReturn(tokenOfK); len(next) > 0 {
		t.Errorf("behind one that cannot be read %v return", next)
	}
	f.mustHave(t, "Ru!s", 7, 8)
	f.mustAdmit(t, fromSource(0, 7), true) // its acknowledgement did not arrive: it is stored besides
	f.storedLocked(tokenOfK, 7)
	f.mustHave(t, "su!s", 7, 8)
	if next, _ := f.beginReturn(tokenOfK); len(next) > 0 {
		t.Errorf("behind one that cannot be read %v return", next)
	}
	f.goneLocked(tokenOfK, 7)
	if next, _ := f.beginReturn(tokenOfK); len(next) != 2 {
		t.Errorf("%v return", next)
	}
}

// answers are the results of AreReturning.
type answers struct {
	noFollowers
	asked [][]uint64
	there []bool
	err   error
}

func (a *answers) AreReturning(_ context.Context, _ string, sequences []uint64) ([]bool, error) {
	a.asked = append(a.asked, sequences)
	return a.there, a.err
}

// The store is asked at once about all followers that were returned and do not come. Those that are
// gone are forgotten, also if there was no answer about others.
func TestLateFollowers(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(map[string][]Follower{tokenOfK: {{Sequence: 5}, {Sequence: 6}, {Sequence: 7}, {Sequence: 8}}})
	down := errors.New("down")
	store := &answers{there: []bool{true, false}, err: down}
	f.store = store
	next, _ := f.beginReturn(tokenOfK)
	f.endReturn(tokenOfK, next, []bool{true, true, true}, down)
	if err := f.checkLate(tokenOfK); err != nil || len(store.asked) > 0 {
		t.Errorf("before any is late: %v, asked about %v", err, store.asked)
	}
	f.keys[tokenOfK].late = true
	if err := f.checkLate(tokenOfK); err != down || len(store.asked) != 1 || !slices.Equal(store.asked[0], []uint64{5, 6, 7}) {
		t.Errorf("%v, asked about %v", err, store.asked)
	}
	f.mustHave(t, "RRs!", 5, 7, 8)
}

// While no follower can be returned, which is reported once and is a problem until one is, others are
// stored.
func TestFollowersThatCannotReturn(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(map[string][]Follower{tokenOfK: {{Sequence: 5}}})
	f.puts, f.moves = followerCalls{}, followerCalls{}
	f.workers = maxFollowerWorkers // none is started
	var reported atomic.Int64
	f.k.d.cfg.Report, f.k.d.ctx = func(error) { reported.Add(1) }, t.Context()
	denied := errors.New("denied")
	for range 2 {
		f.k.d.mu.Lock()
		f.resultLocked(&f.moves, denied)
		f.k.d.mu.Unlock()
	}
	f.k.d.awaitReported(t.Context())
	if err := f.stalledLocked(); !errors.Is(err, denied) || reported.Load() != 1 {
		t.Errorf("stalled: %v, %d reports", err, reported.Load())
	}
	f.readyLocked(tokenOfK)
	if do, _ := f.takeLocked(); do != nil {
		t.Error("followers return without a pause")
	}
	if due := f.dueLocked(); !due.Equal(f.moves.pause) {
		t.Errorf("the next look is at %v, the pause ends at %v", due, f.moves.pause)
	}
	f.mustAdmit(t, fromSource(0, 6), true)
	f.storeAllBehindLocked()
	if do, calls := f.takeLocked(); do == nil || calls != &f.puts {
		t.Error("nothing is stored meanwhile")
	}
	f.endReturn(tokenOfK, []Follower{{Sequence: 5}}, []bool{true}, nil)
	if err := f.stalledLocked(); err != nil {
		t.Errorf("stalled: %v", err)
	}
}

// What is early at the stop is returned, and so is what comes later.
func TestEarlyFollowersAtTheStop(t *testing.T) {
	t.Parallel()
	f := newTestFollowers(map[string][]Follower{tokenOfK: {{Sequence: 5}, {Sequence: 6}}})
	next, _ := f.beginReturn(tokenOfK)
	f.mustAdmit(t, fromSource(1, 5), true)
	f.mustAdmit(t, fromSource(0, 9), true)
	if left := f.stop(); len(left) != 2 || left[0].Stored.Sequence != 5 || left[1].Stored.Sequence != 9 {
		t.Errorf("%v are left", left)
	}
	f.mustAdmit(t, fromSource(1, 6), false)
	f.endReturn(tokenOfK, next, []bool{true, true}, nil)
	if f.k.lanes.Waiting(1) > 0 || f.hereLocked(1) > 0 {
		t.Error("something waits after the stop")
	}
}

// Many return at once, as soon as half of them are done, and none before the barrier is open or
// after the stop.
func TestHowManyFollowersReturn(t *testing.T) {
	t.Parallel()
	var waiting []Follower
	for sequence := uint64(1); sequence <= 100; sequence++ {
		waiting = append(waiting, Follower{Sequence: sequence})
	}
	f := newTestFollowers(map[string][]Follower{tokenOfK: waiting})
	f.k.sources[1].barrier.open = false
	if next, _ := f.beginReturn(tokenOfK); len(next) > 0 {
		t.Errorf("behind a closed barrier %v return", next)
	}
	f.k.sources[1].barrier.open = true
	f.k.d.quiesced = true
	if next, _ := f.beginReturn(tokenOfK); len(next) > 0 {
		t.Errorf("while quiesced %v return", next)
	}
	f.k.d.quiesced = false
	next, last := f.beginReturn(tokenOfK)
	if len(next) != maxBack || last {
		t.Errorf("%d return, the last: %t", len(next), last)
	}
	f.endReturn(tokenOfK, next, slices.Repeat([]bool{true}, len(next)), nil)
	for sequence := uint64(1); sequence <= maxBack; sequence++ {
		f.mustAdmit(t, fromSource(1, sequence), false)
		next, last := f.beginReturn(tokenOfK)
		switch want := min(maxBack/2, 100-maxBack); {
		case sequence < maxBack/2 && len(next) > 0:
			t.Errorf("after %d %v return", sequence, next)
		case sequence == maxBack/2 && (len(next) != want || last):
			t.Errorf("after %d %d return, want %d", sequence, len(next), want)
		}
	}
	f.stop()
	if next, _ := f.beginReturn(tokenOfK); len(next) > 0 {
		t.Errorf("after the stop %v return", next)
	}
}

// Enough return for whole batches, but half of what fits in at most.
func TestHowManyFollowersReturnForBatches(t *testing.T) {
	t.Parallel()
	var waiting []Follower
	for sequence := uint64(1); sequence <= 1000; sequence++ {
		waiting = append(waiting, Follower{Sequence: sequence})
	}
	for size, want := range map[int]int{10: maxBack, 100: 200, 400: 500} {
		f := newTestFollowers(map[string][]Follower{tokenOfK: waiting})
		f.k.d.cfg.Batch.Size = size
		if next, _ := f.beginReturn(tokenOfK); len(next) != want {
			t.Errorf("for batches of %d %d return, want %d", size, len(next), want)
		}
	}
}

// The maintainer looks again when the first pause ends, also while workers do other work, and at once
// if a pause has ended and there is no worker.
func TestFollowersAreDue(t *testing.T) {
	t.Parallel()
	now := time.Now()
	past, soon, later := now.Add(-time.Hour), now.Add(time.Hour), now.Add(2*time.Hour)
	for name, c := range map[string]struct {
		puts, moves time.Time
		workers     int
		want        time.Time // now stands for any time until now
	}{
		"both pause":               {later, soon, 0, soon},
		"one pauses, one works":    {past, later, 1, later},
		"one has ended, no worker": {later, past, 0, now},
		"both work":                {past, past, 2, time.Time{}},
	} {
		f := &followers{queue: make([]wire.Delivery, 1), ready: []string{"k"}, workers: c.workers}
		f.puts.pause, f.moves.pause = c.puts, c.moves
		got := f.dueLocked()
		if c.want.Equal(now) && !got.IsZero() && got.Before(soon) {
			continue
		}
		if !got.Equal(c.want) {
			t.Errorf("%s: due at %v, want %v", name, got, c.want)
		}
	}
}
