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

// followerCalls is what is known of the calls of one kind: to store, or to return. The two have
// pauses of their own: while nothing can be returned, what takes the room of other keys is stored.
type followerCalls struct {
	pause time.Time // no calls before: the last one failed
	err   error     // why it failed; nil if it did not
}

func (c *followerCalls) pauses() bool { return time.Now().Before(c.pause) }

// startLocked starts workers for what is to be done.
func (f *followers) startLocked() {
	if f.stopped {
		return
	}
	todo := 0
	if !f.puts.pauses() {
		todo += len(f.queue)
	}
	if !f.moves.pauses() {
		todo += len(f.ready)
	}
	for f.workers < min(maxFollowerWorkers, todo) {
		f.workers++
		go f.work()
	}
}

// work is a worker.
func (f *followers) work() {
	d := f.k.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for !f.stopped {
		do, calls := f.takeLocked()
		if do == nil {
			break
		}
		d.mu.Unlock()
		err := do()
		d.mu.Lock()
		f.resultLocked(calls, err)
	}
	f.workers--
	if f.stopped && f.workers == 0 {
		close(f.idle)
	}
}

// takeLocked returns what a worker does next, and of which kind it is, or nil. The two kinds of work
// take turns. Most workers store: what is to be stored takes the room of other keys, and to return is
// the longer work.
func (f *followers) takeLocked() (do func() error, calls *followerCalls) {
	mayPut, mayReturn := len(f.queue) > 0 && !f.puts.pauses(), len(f.ready) > 0 && !f.moves.pauses()
	f.turn = !f.turn
	switch {
	case mayPut && (f.turn || !mayReturn || f.returns >= maxReturnWorkers):
		del := f.queue[0]
		f.queue[0] = wire.Delivery{}
		f.queue = f.queue[1:]
		return func() error { return f.put(del) }, &f.puts
	case mayReturn:
		token := f.ready[0]
		f.ready = f.ready[1:]
		f.returns++
		return func() error { return f.returnReady(token) }, &f.moves
	}
	return nil, nil
}

// resultLocked records the error of a call. After it there is a pause. The first of several errors
// is reported. A call that succeeds ends them: see put and endReturn.
func (f *followers) resultLocked(calls *followerCalls, err error) {
	if err == nil {
		return
	}
	calls.pause = time.Now().Add(deadLetterRetry)
	f.k.d.wakeMaintainer()
	if f.k.d.ctx.Err() != nil || errors.Is(err, errRecordFull) {
		return
	}
	if calls.err == nil {
		f.k.d.reportLocked(failedCall(err))
	}
	calls.err = err
}

// failedCall says what the failure of a call means.
func failedCall(err error) error {
	return fmt.Errorf("messages behind a failing one of their key cannot be stored or returned: %w", err)
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
	f.puts.err = nil
	f.storedLocked(token, del.Stored.Sequence)
	return nil
}

// putBack keeps a message that could not be stored, as far as is known.
func (f *followers) putBack(del wire.Delivery) {
	d := f.k.d
	d.mu.Lock()
	stopped := f.stopped
	if !stopped {
		f.unsureLocked(f.store.Token(del.Stored.Key), del.Stored.Sequence)
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
	f.forgetLocked(token, del.Stored.Sequence, storing)
	next := f.enterFreeLocked()
	d.mu.Unlock()
	f.run(next)
	return nil
}

// returnReady returns followers of a key, as long as some can be returned. It also checks those
// that have not come back for long. A worker calls it.
func (f *followers) returnReady(token string) error {
	err := f.checkLate(token)
	for err == nil {
		next, last := f.beginReturn(token)
		if len(next) == 0 {
			break
		}
		var found []bool
		found, err = f.store.Return(f.k.d.ctx, token, next, last)
		f.endReturn(token, next, found, err)
	}
	f.k.d.mu.Lock()
	defer f.k.d.mu.Unlock()
	f.returns--
	why, odd := errors.AsType[*UnreadableError](err)
	if odd {
		err = nil // it concerns this key alone
	}
	if kf := f.keys[token]; kf != nil {
		kf.busy = false
		if odd {
			f.unreadableLocked(kf, why)
		}
		if err == nil {
			f.readyLocked(token) // it may have changed since beginReturn
		}
	}
	return err
}

// beginReturn chooses the next followers of a key. last is whether no others wait.
func (f *followers) beginReturn(token string) (chosen []Follower, last bool) {
	f.k.d.mu.Lock()
	defer f.k.d.mu.Unlock()
	kf := f.keys[token]
	if kf == nil {
		return nil, false
	}
	next := f.nextLocked(kf)
	for i := range next {
		next[i].state = returning
		chosen = append(chosen, Follower{Sequence: next[i].sequence, Unsure: next[i].unsure})
	}
	if len(next) > 0 {
		kf.returning += len(next)
		kf.moved = time.Now()
	}
	return chosen, f.allReturningLocked()
}

// endReturn acts on the result of a Return. After an error a message may come back all the
// same, and may be here already: then it is stored once more.
func (f *followers) endReturn(token string, all []Follower, found []bool, err error) {
	f.k.d.mu.Lock()
	if err == nil {
		f.moves.err = nil
	}
	if kf := f.keys[token]; kf != nil && err == nil {
		kf.unreadable = nil
	}
	for i := range all {
		switch {
		case i >= len(found):
			f.notReturnedLocked(token, all[i].Sequence)
		case found[i]:
			f.returnedLocked(token, all[i].Sequence)
		default: // somebody has removed it
			f.forgetLocked(token, all[i].Sequence, returning)
		}
	}
	next := append(f.enterEarlyLocked(token), f.enterFreeLocked()...)
	f.k.d.mu.Unlock()
	f.run(next)
}

// run has messages run that have entered their lanes. Durable.mu is not held.
func (f *followers) run(next []wire.Delivery) {
	for _, del := range next {
		f.k.d.push(del)
	}
	if f.k.d.cfg.Batch.Run != nil {
		f.k.d.queue.CheckBatch()
	}
}

// enterEarlyLocked has the early followers of a key go into its lane, or be stored once more. It
// returns which may run at once.
func (f *followers) enterEarlyLocked(token string) (next []wire.Delivery) {
	for _, del := range f.early.take(token) {
		if f.k.enterLocked(del) {
			next = append(next, del)
		}
	}
	return next
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

// unsureLocked records that a follower may be stored twice.
func (f *followers) unsureLocked(token string, sequence uint64) {
	if kf := f.keys[token]; kf != nil {
		if i, found := kf.find(sequence); found {
			kf.all[i].unsure = true
		}
	}
}

// returnedLocked records that a follower was returned.
func (f *followers) returnedLocked(token string, sequence uint64) {
	if kf := f.keys[token]; kf != nil {
		if i, found := kf.find(sequence); found && kf.all[i].state == returning {
			kf.all[i].state = returned
		}
	}
}

// notReturnedLocked records that a follower could not be returned.
func (f *followers) notReturnedLocked(token string, sequence uint64) {
	if kf := f.keys[token]; kf != nil {
		if i, found := kf.find(sequence); found && kf.all[i].state == returning {
			kf.all[i].state, kf.all[i].unsure = stored, true
			kf.returning--
		}
	}
}

// forgetLocked forgets a follower that is still in a state, unless a copy of it has come back that
// cannot be read: that is followed until it is gone.
func (f *followers) forgetLocked(token string, sequence uint64, in followerState) {
	if kf := f.keys[token]; kf != nil {
		switch i, found := kf.find(sequence); {
		case !found || kf.all[i].state != in:
		case kf.all[i].unread:
			kf.cameBack(i)
		default:
			f.removeLocked(token, kf, i)
		}
	}
	f.readyLocked(token)
}

// goneLocked records that what was returned does not exist any more. It may be stored besides.
func (f *followers) goneLocked(token string, sequence uint64) {
	if kf := f.keys[token]; kf != nil {
		if i, found := kf.find(sequence); found && kf.all[i].unread {
			kf.all[i].unread = false
			kf.unread--
		}
	}
	f.forgetLocked(token, sequence, returned)
}

// checkLate forgets what was returned, has not come for long or cannot be read, and does not exist any
// more.
func (f *followers) checkLate(token string) error {
	late := f.takeLate(token)
	if len(late) == 0 {
		return nil
	}
	d := f.k.d
	there, err := f.store.AreReturning(d.ctx, token, late)
	for i := range there {
		if !there[i] {
			d.mu.Lock()
			f.goneLocked(token, late[i])
			next := f.enterFreeLocked()
			d.mu.Unlock()
			f.run(next)
			d.dropKept(token, late[i])
		}
	}
	return err
}

// takeLate returns what checkLate looks at.
func (f *followers) takeLate(token string) (late []uint64) {
	f.k.d.mu.Lock()
	defer f.k.d.mu.Unlock()
	kf := f.keys[token]
	if kf == nil || !kf.late {
		return nil
	}
	kf.late = false
	for _, one := range kf.all {
		if one.state == returned || one.unread {
			late = append(late, one.sequence)
		}
	}
	return late
}

// stop returns what is not stored yet, what is early, and what waits here. No worker begins anything from now on.
func (f *followers) stop() []wire.Delivery {
	f.k.d.mu.Lock()
	defer f.k.d.mu.Unlock()
	left := slices.Concat(f.queue, f.early.takeAll())
	for _, kf := range f.keys {
		left = append(left, f.takeBehindLocked(kf)...)
	}
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
