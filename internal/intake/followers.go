package intake

import (
	"context"
	"slices"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// Followers stores messages that wait behind a failing one of their key and do not fit
// here. They come back by another source, after Return. Its methods may ask the server, except
// Waiting, Token and MayWait. See package sidestream.
type Followers interface {
	// Waiting returns those that were stored before, ascending, by the token of their key.
	Waiting() map[string][]Follower
	Token(key string) string
	// MayWait reports whether a message can be stored.
	MayWait(d *wire.Delivery) bool
	// Put stores a message. After an error it may be stored. To store it twice is as to store it
	// once, but makes it an unsure one.
	Put(ctx context.Context, d *wire.Delivery) error
	// Return has messages of a key come back, in this order. With last no others are stored.
	// found has an element for each of the first messages: whether it comes back and is stored
	// no more, or is not stored. After an error some of the others may come back too, and are
	// stored still. An *UnreadableError is about the first of the others.
	Return(ctx context.Context, token string, all []Follower, last bool) (found []bool, err error)
	// AreReturning has an element for each message of a key: whether it was returned and is not
	// settled yet. After an error it has fewer, those of the first ones.
	AreReturning(ctx context.Context, token string, sequences []uint64) ([]bool, error)
}

// Follower is a message that is stored.
type Follower struct {
	Sequence uint64
	Unsure   bool // it may be stored more than once, or be coming back already
}

// followers is what keyed knows of the followers of each key. As long as a key has some, no
// message of the key with a higher sequence than the first of them runs, so that none overtakes:
// it is stored too, or waits here behind all of them. Some are returned whenever few messages of
// the key wait here. A follower belongs to its key until it has come back and is stored no more.
//
// States of a follower: storing → stored → returning → returned → gone (it came back). A failed
// call leads back to the state before. What comes back before the call has ended is early: it
// waits for the result. Otherwise it could be handled and settled while its copy stays, and the
// copy would be handled again.
//
// Guarded by Durable.mu. The workers, which end when nothing is to be done, store and return.
type followers struct {
	k     *keyed
	store Followers                // nil: nothing is stored
	keys  map[string]*keyFollowers // by token
	names map[string]string        // the tokens of those of which the key is known
	count int

	queue   []wire.Delivery // to be stored, the oldest first
	early   earlyFollowers
	behind  int             // messages that wait here behind followers of their key
	free    []wire.Delivery // those that do so no more; see enterFreeLocked
	ready   []string        // tokens of keys of which some can be returned
	turn    bool            // of the workers: which of these is next
	workers int
	returns int // workers that return followers
	puts    followerCalls
	moves   followerCalls // calls of Return
	stopped bool
	idle    chan struct{} // closed when the last worker has ended, after stop
}

// keyFollowers are the followers of one key.
type keyFollowers struct {
	key       string // empty until a message of the key was seen here
	all       []follower
	behind    []wire.Delivery // wait here; their sequences are higher, and ascend
	returning int             // of all: those that are returning, or returned
	moved     time.Time       // when one was last returned, or came back
	busy      bool            // it is in ready, or a worker returns some
	late      bool            // what is returning has not come for long

	unread     int         // of all
	unreadable *unreadable // nil if all could be read
}

// follower is a message that waits in S-retry, or is on its way there or back. Durable.mu guards it.
type follower struct {
	sequence uint64
	state    followerState
	unsure   bool   // see Follower
	unread   bool   // it came back and cannot be read; it may be stored besides. See keepLocked
	puts     uint16 // deliveries of it that are being stored; the state is storing as long as there are any
}

// followerState is how far a follower is: it is being stored, it is stored, a Return of it has
// begun, or has succeeded.
type followerState uint8

const (
	storing followerState = iota
	stored
	returning
	returned
)

// comesBack reports whether a follower may come back now.
func (f follower) comesBack() bool { return f.state == returning || f.state == returned }

const (
	maxFollowerWorkers = 16
	maxReturnWorkers   = 4                // as long as some are to be stored
	maxBack            = 64               // messages of one key that are here, or on their way, without batches
	checkReturning     = 10 * time.Second // after that it is checked that what was returned still exists
)

func newFollowers(k *keyed, store Followers) *followers {
	f := &followers{k: k, store: store, keys: make(map[string]*keyFollowers), names: make(map[string]string), idle: make(chan struct{})}
	if store == nil {
		return f
	}
	for token, waiting := range store.Waiting() {
		kf := &keyFollowers{all: make([]follower, len(waiting))}
		for i, w := range waiting {
			kf.all[i] = follower{sequence: w.Sequence, state: stored, unsure: w.Unsure}
		}
		f.keys[token] = kf
		f.count += len(waiting)
	}
	return f
}

// admitLocked looks at a message with a key that has come. It returns true if the message is
// to be stored, or waits here, behind others of its key, or waits for the result of its Return;
// else the message goes into its lane.
func (f *followers) admitLocked(del *wire.Delivery) bool {
	if len(f.keys) == 0 || f.stopped {
		return false
	}
	token, kf := f.ofKeyLocked(del.Stored.Key)
	if kf == nil || !f.store.MayWait(del) {
		return false
	}
	i, found := kf.find(del.Stored.Sequence)
	switch cameBack := found && del.Stored.Source != 0; {
	case i == 0 && !found: // before the first
		return false
	case cameBack && kf.all[i].state == returning:
		f.early.add(token, *del)
		return true
	case cameBack && kf.all[i].state == returned && i == 0 && !kf.all[i].unread:
		del.Stored.Unbegun = !kf.all[0].unsure
		f.removeLocked(token, kf, 0)
		f.readyLocked(token)
		return false
	}
	if i == len(kf.all) && del.Stored.Source == 0 && !f.stayLocked(kf) {
		f.waitBehindLocked(kf, *del)
	} else {
		f.putLocked(kf, *del)
	}
	return true
}

// ofKeyLocked returns the followers of a key with their token, or nil. It makes the token, which takes
// long, only while the key of some followers is not known.
func (f *followers) ofKeyLocked(key string) (token string, kf *keyFollowers) {
	if token, known := f.names[key]; known || len(f.names) == len(f.keys) {
		return token, f.keys[token]
	}
	token = f.store.Token(key)
	if kf = f.keys[token]; kf != nil {
		kf.key, f.names[key] = key, token
	}
	return token, kf
}

// beginLocked returns new followers of a key that has none.
func (f *followers) beginLocked(key string) *keyFollowers {
	token := f.store.Token(key)
	kf := &keyFollowers{key: key}
	f.keys[token], f.names[key] = kf, token
	return kf
}

// spillLocked stores what waits in the lane of a key, except for so many. It returns how many these
// are.
func (f *followers) spillLocked(key string, keep int) int {
	if f.store == nil || f.stopped {
		return 0
	}
	_, kf := f.ofKeyLocked(key)
	if kf != nil { // what was returned lately is not to be stored again
		if keep = f.targetLocked(); f.k.lanes.Behind(key) <= 2*keep {
			return 0
		}
	}
	tail := f.k.lanes.TakeTail(key, keep)
	if len(tail) == 0 {
		return 0
	}
	if kf == nil {
		kf = f.beginLocked(key)
	}
	for i := range tail {
		f.putLocked(kf, tail[i])
	}
	return len(tail)
}

// putLocked has a worker store del.
func (f *followers) putLocked(kf *keyFollowers, del wire.Delivery) {
	before := len(kf.all)
	i := f.insertLocked(kf, del.Stored.Sequence)
	if kf.all[i].comesBack() {
		kf.returning--
	}
	kf.all[i].unsure = kf.all[i].unsure || len(kf.all) == before
	kf.all[i].state = storing
	kf.all[i].puts++
	f.queue = append(f.queue, del)
	f.startLocked()
}

// insertLocked returns the index of the follower with a sequence. It is inserted if it is not there.
func (f *followers) insertLocked(kf *keyFollowers, sequence uint64) int {
	if len(kf.behind) > 0 && kf.behind[0].Stored.Sequence < sequence { // what waits here is behind all
		f.storeBehindLocked(kf)
	}
	i, found := kf.find(sequence)
	if !found {
		kf.all = slices.Insert(kf.all, i, follower{sequence: sequence})
		f.count++
	}
	return i
}

func (kf *keyFollowers) find(sequence uint64) (i int, found bool) {
	return slices.BinarySearchFunc(kf.all, sequence, func(f follower, s uint64) int {
		switch {
		case f.sequence < s:
			return -1
		case f.sequence > s:
			return 1
		}
		return 0
	})
}

// removeLocked forgets the i-th follower of a key.
func (f *followers) removeLocked(token string, kf *keyFollowers, i int) {
	if kf.all[i].comesBack() {
		kf.returning--
	}
	kf.moved = time.Now()
	f.count--
	if kf.all[i].unread {
		kf.unread--
	}
	if i == 0 {
		kf.all = kf.all[1:]
	} else {
		kf.all = slices.Delete(kf.all, i, i+1)
	}
	if len(kf.all) == 0 {
		delete(f.keys, token)
		delete(f.names, kf.key)
		f.free = append(f.free, f.takeBehindLocked(kf)...)
	}
}

// readyLocked has a worker return followers of a key, if some can be returned.
func (f *followers) readyLocked(token string) {
	if kf := f.keys[token]; kf != nil && !kf.busy && len(f.nextLocked(kf)) > 0 {
		kf.busy = true
		f.ready = append(f.ready, token)
	}
	f.startLocked()
}

// readyKeyLocked is readyLocked for a key of which a message was settled.
func (f *followers) readyKeyLocked(key string) {
	if token, kf := f.ofKeyLocked(key); kf != nil {
		f.readyLocked(token)
	}
}

// maintainLocked looks at all keys. The maintainer calls it.
func (f *followers) maintainLocked(now time.Time) {
	for token, kf := range f.keys {
		f.readyLocked(token)
		if kf.returning+kf.unread > 0 && now.Sub(kf.moved) >= checkReturning && !kf.busy && f.k.openLocked() {
			kf.busy, kf.late, kf.moved = true, true, now
			f.ready = append(f.ready, token)
			f.startLocked()
		}
	}
	f.startLocked()
}

// targetLocked is how many messages of a key are to be here, or on their way. Of a single key they are
// two batches, since a batch that is not whole waits.
func (f *followers) targetLocked() int {
	back := f.k.d.pullers[len(f.k.d.pullers)-1].MaxHeld
	return min(max(back/(2*max(len(f.keys), 1)), 1), max(maxBack, 2*f.k.d.cfg.Batch.Size))
}

// nextLocked returns the followers of a key that are to be returned now. They are none as long
// as half of the target is here, since it costs less to return many at once. Before the start
// barrier is open earlier messages may still come, and among them those whose copies were
// stored when the process died.
func (f *followers) nextLocked(kf *keyFollowers) []follower {
	if f.stopped || f.k.d.quiesced || !f.k.openLocked() || kf.unreadable != nil && time.Now().Before(kf.unreadable.look) {
		return nil
	}
	here := kf.returning
	if kf.key != "" {
		here += f.k.lanes.Behind(kf.key)
	}
	target := f.targetLocked()
	if here > target/2 {
		return nil
	}
	next := kf.all
	if kf.unread > 0 { // nothing passes the first of these
		next = next[:slices.IndexFunc(next, func(one follower) bool { return one.unread })]
	}
	from := slices.IndexFunc(next, func(one follower) bool { return !one.comesBack() })
	if from < 0 {
		return nil
	}
	next = next[from:]
	next = next[:min(len(next), max(target-here, 1))]
	if to := slices.IndexFunc(next, func(one follower) bool { return one.state != stored }); to >= 0 {
		next = next[:to]
	}
	return next
}

// allReturningLocked reports whether all followers are returning.
func (f *followers) allReturningLocked() bool {
	for _, kf := range f.keys {
		if kf.returning < len(kf.all) {
			return false
		}
	}
	return true
}

// dueLocked is when the maintainer must look again, zero for never.
func (f *followers) dueLocked() (due time.Time) {
	if f.stopped {
		return due
	}
	now := time.Now()
	look := func(todo int, calls *followerCalls) {
		switch at := calls.pause; {
		case todo == 0:
		case !at.After(now) && f.workers == 0: // the pause has ended since startLocked
			due = now
		case at.After(now) && (due.IsZero() || at.Before(due)):
			due = at
		}
	}
	look(len(f.queue), &f.puts)
	look(len(f.ready), &f.moves)
	return due
}

// hereLocked is how many messages of a source are early, or wait here behind followers.
func (f *followers) hereLocked(source int) int {
	if source == 0 {
		return f.behind
	}
	return f.early.count
}

// storedCountLocked is how many messages wait in the store only.
func (f *followers) storedCountLocked() int { return max(f.count-len(f.queue), 0) }
