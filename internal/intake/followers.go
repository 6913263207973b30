package intake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Followers stores messages that wait behind a failing one of their key and do not fit
// here. They come back by another source, after Return. Its methods may ask the server, except
// Waiting, Token and MayWait. See package sidestream.
type Followers interface {
	// Waiting returns those that were stored before, ascending, by the token of their key.
	Waiting() map[string][]uint64
	Token(key string) string
	// MayWait reports whether a message can be stored.
	MayWait(d *wire.Delivery) bool
	// Put stores a message. To store it twice is as to store it once.
	Put(ctx context.Context, d *wire.Delivery) error
	// Return has a message come back. found is false if it is not stored.
	Return(ctx context.Context, token string, sequence uint64) (found bool, err error)
	// IsReturning reports whether a message that was returned has not been settled yet.
	IsReturning(ctx context.Context, token string, sequence uint64) (bool, error)
}

// followers is what keyed knows of the followers of each key. As long as a key has some,
// every message of the key with a higher sequence than the first of them is stored too, so
// that none overtakes. They are returned one after another while few messages of the key wait
// here. A follower belongs to its key until it has come back.
//
// States of a follower: storing → stored → returning → gone (it came back). A failed
// call leads back to the state before.
//
// Guarded by Durable.mu. The workers, which end when nothing is to be done, store and return.
type followers struct {
	k     *keyed
	store Followers // nil: nothing is stored
	keys  map[string]*keyFollowers
	count int

	queue   []wire.Delivery // to be stored, the oldest first
	ready   []string        // tokens of keys of which some can be returned
	turn    bool            // of the workers: which of these is next
	workers int
	pause   time.Time // no calls before: the last one failed
	failed  bool      // that was reported
	stopped bool
	idle    chan struct{} // closed when the last worker has ended, after stop
}

// keyFollowers are the followers of one key.
type keyFollowers struct {
	key       string // empty until a message of the key was seen here
	all       []follower
	returning int       // of all
	moved     time.Time // when one was last returned, or came back
	busy      bool      // it is in ready, or a worker returns some
	late      bool      // what is returning has not come for long
}

// follower is a message that waits in S-retry, or is on its way there or back. Durable.mu guards it.
type follower struct {
	sequence uint64
	state    followerState
	puts     uint16 // deliveries of it that are being stored; the state is storing as long as there are any
}

// followerState is how far a follower is: it is being stored, it is stored, or it is returning.
type followerState uint8

const (
	storing followerState = iota
	stored
	returning
)

const (
	maxFollowerWorkers = 16
	maxBack            = 32               // messages of one key that are here, or on their way, before more of its followers are returned
	checkReturning     = 10 * time.Second // after that it is checked that what was returned still exists
)

func newFollowers(k *keyed, store Followers) *followers {
	f := &followers{k: k, store: store, keys: make(map[string]*keyFollowers), idle: make(chan struct{})}
	if store == nil {
		return f
	}
	for token, sequences := range store.Waiting() {
		kf := &keyFollowers{all: make([]follower, len(sequences))}
		for i, sequence := range sequences {
			kf.all[i] = follower{sequence: sequence, state: stored}
		}
		f.keys[token] = kf
		f.count += len(sequences)
	}
	return f
}

// admitLocked looks at a message with a key that has come. It returns true if the message is
// to be stored, behind others of its key; else the message goes into its lane.
func (f *followers) admitLocked(del *wire.Delivery) bool {
	if len(f.keys) == 0 {
		return false
	}
	token := f.store.Token(del.Stored.Key)
	kf := f.keys[token]
	if kf == nil || !f.store.MayWait(del) {
		return false
	}
	kf.key = del.Stored.Key
	switch first := kf.all[0]; {
	case del.Stored.Sequence < first.sequence:
		return false
	case del.Stored.Sequence == first.sequence && del.Stored.Source != 0 && first.state == returning:
		f.removeLocked(token, kf, 0)
		f.readyLocked(token)
		return false
	}
	f.putLocked(kf, *del)
	return true
}

// spillLocked stores what waits in the lane of a key, except for so many.
func (f *followers) spillLocked(key string, keep int) {
	if f.store == nil || f.stopped {
		return
	}
	token := f.store.Token(key)
	kf := f.keys[token]
	if kf != nil { // what was returned lately is not to be stored again
		if keep = f.targetLocked(); f.k.lanes.Behind(key) <= 2*keep {
			return
		}
	}
	tail := f.k.lanes.TakeTail(key, keep)
	if len(tail) == 0 {
		return
	}
	if kf == nil {
		kf = new(keyFollowers)
		f.keys[token] = kf
	}
	kf.key = key
	for i := range tail {
		f.putLocked(kf, tail[i])
	}
}

// putLocked has a worker store del.
func (f *followers) putLocked(kf *keyFollowers, del wire.Delivery) {
	i, found := kf.find(del.Stored.Sequence)
	switch {
	case !found:
		kf.all = slices.Insert(kf.all, i, follower{sequence: del.Stored.Sequence})
		f.count++
	case kf.all[i].state == returning:
		kf.returning--
	}
	kf.all[i].state = storing
	kf.all[i].puts++
	f.queue = append(f.queue, del)
	f.startLocked()
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
	if kf.all[i].state == returning {
		kf.returning--
	}
	kf.moved = time.Now()
	f.count--
	if i == 0 {
		kf.all = kf.all[1:]
	} else {
		kf.all = slices.Delete(kf.all, i, i+1)
	}
	if len(kf.all) == 0 {
		delete(f.keys, token)
	}
}

// readyLocked has a worker return followers of a key, if some can be returned.
func (f *followers) readyLocked(token string) {
	if kf := f.keys[token]; kf != nil && !kf.busy && f.nextLocked(kf) >= 0 {
		kf.busy = true
		f.ready = append(f.ready, token)
	}
	f.startLocked()
}

// readyKeyLocked is readyLocked for a key of which a message was settled.
func (f *followers) readyKeyLocked(key string) {
	if len(f.keys) > 0 {
		f.readyLocked(f.store.Token(key))
	}
}

// maintainLocked looks at all keys. The maintainer calls it.
func (f *followers) maintainLocked(now time.Time) {
	for token, kf := range f.keys {
		f.readyLocked(token)
		if kf.returning > 0 && now.Sub(kf.moved) >= checkReturning && !kf.busy && f.k.openLocked() {
			kf.busy, kf.late, kf.moved = true, true, now
			f.ready = append(f.ready, token)
			f.startLocked()
		}
	}
	f.startLocked()
}

// targetLocked is how many messages of a key are to be here, or on their way.
func (f *followers) targetLocked() int {
	back := f.k.d.pullers[len(f.k.d.pullers)-1].MaxHeld
	return min(max(back/(2*max(len(f.keys), 1)), 1), maxBack)
}

// nextLocked returns which follower of a key is to be returned now, or -1. Before the start
// barrier is open earlier messages may still come, and among them those whose copies were
// stored when the process died.
func (f *followers) nextLocked(kf *keyFollowers) int {
	if f.stopped || !f.k.openLocked() {
		return -1
	}
	here := kf.returning
	if kf.key != "" {
		here += f.k.lanes.Behind(kf.key)
	}
	if here >= f.targetLocked() {
		return -1
	}
	for i := range kf.all {
		switch kf.all[i].state {
		case stored:
			return i
		case storing:
			return -1
		}
	}
	return -1
}

// dueLocked is when the maintainer must look again, zero for never.
func (f *followers) dueLocked() time.Time {
	if len(f.queue)+len(f.ready) == 0 || f.workers > 0 || f.stopped {
		return time.Time{}
	}
	return f.pause
}

// startLocked starts workers for what is to be done.
func (f *followers) startLocked() {
	if f.stopped || time.Now().Before(f.pause) {
		return
	}
	for f.workers < min(maxFollowerWorkers, len(f.queue)+len(f.ready)) {
		f.workers++
		go f.work()
	}
}

// work is a worker.
func (f *followers) work() {
	d := f.k.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for !f.stopped && !time.Now().Before(f.pause) {
		do := f.takeLocked()
		if do == nil {
			break
		}
		d.mu.Unlock()
		err := do()
		d.mu.Lock()
		f.resultLocked(err)
	}
	f.workers--
	if f.stopped && f.workers == 0 {
		close(f.idle)
	}
}

// takeLocked returns what a worker does next, or nil. The two kinds of work take turns.
func (f *followers) takeLocked() func() error {
	f.turn = !f.turn
	switch {
	case len(f.queue) > 0 && (f.turn || len(f.ready) == 0):
		del := f.queue[0]
		f.queue[0] = wire.Delivery{}
		f.queue = f.queue[1:]
		return func() error { return f.put(del) }
	case len(f.ready) > 0:
		token := f.ready[0]
		f.ready = f.ready[1:]
		return func() error { return f.giveBack(token) }
	}
	return nil
}

// resultLocked records how a call ended. After an error there is a pause. The first of several
// errors is reported.
func (f *followers) resultLocked(err error) {
	if err == nil {
		f.failed = false
		return
	}
	f.pause = time.Now().Add(deadLetterRetry)
	f.k.d.wakeMaintainer()
	if !f.failed && f.k.d.ctx.Err() == nil && !errors.Is(err, errRecordFull) {
		f.failed = true
		f.k.d.reportLocked(fmt.Errorf("messages behind a failing one of their key cannot be stored or returned: %w", err))
	}
}

// errRecordFull says that too many other messages are about to become dead letters.
var errRecordFull = errors.New("the settle record is full")

// put stores del and acknowledges it. A worker calls it.
func (f *followers) put(del wire.Delivery) error {
	d, token := f.k.d, f.store.Token(del.Stored.Key)
	if d.cfg.Recovery != nil {
		d.restore(del) // a copy keeps its failed attempts
	}
	if del.Stored.Dead != nil {
		return f.putDead(token, del)
	}
	if err := f.store.Put(d.ctx, &del); err != nil {
		f.putBack(del)
		return err
	}
	d.authority.settle(del, telemetry.OpAck, ackBody)
	d.mu.Lock()
	defer d.mu.Unlock()
	f.storedLocked(token, del.Stored.Sequence)
	return nil
}

// putBack keeps a message that could not be stored.
func (f *followers) putBack(del wire.Delivery) {
	d := f.k.d
	d.mu.Lock()
	stopped := f.stopped
	if !stopped {
		f.queue = slices.Insert(f.queue, 0, del)
	}
	d.mu.Unlock()
	if stopped {
		d.again(del, 0) // the end of the drain returns it
	}
}

// putDead stores the dead letter of a message that a process before could not store.
func (f *followers) putDead(token string, del wire.Delivery) error {
	d := f.k.d
	recorded, full := d.authority.markDead(del)
	switch {
	case full:
		f.putBack(del)
		return errRecordFull
	case !recorded:
		return nil
	}
	if err := d.cfg.WriteDeadLetter(del); err != nil {
		f.putBack(del)
		return err
	}
	d.authority.settle(del, telemetry.OpTerm, termBody)
	d.mu.Lock()
	defer d.mu.Unlock()
	f.forgetLocked(token, del.Stored.Sequence, storing)
	return nil
}

// forgetLocked forgets a follower that is still in a state.
func (f *followers) forgetLocked(token string, sequence uint64, in followerState) {
	if kf := f.keys[token]; kf != nil {
		if i, found := kf.find(sequence); found && kf.all[i].state == in {
			f.removeLocked(token, kf, i)
		}
	}
	f.readyLocked(token)
}

// giveBack returns followers of a key, one after another, as long as some can be returned. It
// also checks those that have not come back for long. A worker calls it.
func (f *followers) giveBack(token string) error {
	err := f.checkLate(token)
	for err == nil {
		sequence, ok := f.beginReturn(token)
		if !ok {
			break
		}
		var found bool
		found, err = f.store.Return(f.k.d.ctx, token, sequence)
		f.endReturn(token, sequence, found, err)
	}
	f.k.d.mu.Lock()
	defer f.k.d.mu.Unlock()
	if kf := f.keys[token]; kf != nil {
		kf.busy = false
		if err == nil {
			f.readyLocked(token) // it may have changed since beginReturn
		}
	}
	return err
}

// beginReturn chooses the next follower of a key.
func (f *followers) beginReturn(token string) (sequence uint64, ok bool) {
	f.k.d.mu.Lock()
	defer f.k.d.mu.Unlock()
	kf := f.keys[token]
	if kf == nil {
		return 0, false
	}
	i := f.nextLocked(kf)
	if i < 0 {
		return 0, false
	}
	kf.all[i].state = returning
	kf.returning++
	kf.moved = time.Now()
	return kf.all[i].sequence, true
}

// endReturn acts on the result of a Return. After an error the message may come back all the
// same: then it is stored once more.
func (f *followers) endReturn(token string, sequence uint64, found bool, err error) {
	f.k.d.mu.Lock()
	defer f.k.d.mu.Unlock()
	switch {
	case err != nil:
		f.notReturnedLocked(token, sequence)
	case !found: // somebody has removed it
		f.forgetLocked(token, sequence, returning)
	}
}

// storedLocked records that a delivery of a follower was stored.
func (f *followers) storedLocked(token string, sequence uint64) {
	if kf := f.keys[token]; kf != nil {
		if i, found := kf.find(sequence); found && kf.all[i].state == storing {
			kf.all[i].puts--
			if kf.all[i].puts == 0 {
				kf.all[i].state = stored
			}
		}
	}
	f.readyLocked(token)
}

// notReturnedLocked records that a follower could not be returned.
func (f *followers) notReturnedLocked(token string, sequence uint64) {
	if kf := f.keys[token]; kf != nil {
		if i, found := kf.find(sequence); found && kf.all[i].state == returning {
			kf.all[i].state = stored
			kf.returning--
		}
	}
}

// checkLate forgets what was returned, has not come for long, and does not exist any more.
func (f *followers) checkLate(token string) error {
	d := f.k.d
	var late []uint64
	d.mu.Lock()
	if kf := f.keys[token]; kf != nil && kf.late {
		kf.late = false
		for _, one := range kf.all {
			if one.state == returning {
				late = append(late, one.sequence)
			}
		}
	}
	d.mu.Unlock()
	for _, sequence := range late {
		there, err := f.store.IsReturning(d.ctx, token, sequence)
		if err != nil {
			return err
		}
		if !there {
			d.mu.Lock()
			f.forgetLocked(token, sequence, returning)
			d.mu.Unlock()
		}
	}
	return nil
}

// storedCountLocked is how many messages wait in the store only.
func (f *followers) storedCountLocked() int { return max(f.count-len(f.queue), 0) }

// stop returns what is not stored yet. No worker begins anything from now on.
func (f *followers) stop() []wire.Delivery {
	f.k.d.mu.Lock()
	defer f.k.d.mu.Unlock()
	left := f.queue
	f.queue, f.ready = nil, nil
	if !f.stopped && f.workers == 0 {
		close(f.idle)
	}
	f.stopped = true
	return left
}

// wait waits until the workers have ended, after stop.
func (f *followers) wait(ctx context.Context) {
	select {
	case <-f.idle:
	case <-ctx.Done():
	}
}
