package intake

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// UnreadableError says that a message which the library has stored cannot be read: another
// version of the library wrote it, or it is damaged. It stays, and so do later messages of its key.
type UnreadableError struct {
	Stream   string // that has it
	Position uint64 // there
	Sequence uint64 // of the original in its own stream; 0 if that is not known
	Key      string // the token of its key; empty if it has none
	Err      error
}

func (e *UnreadableError) Error() string {
	behind := ""
	if e.Key != "" {
		behind = " and later messages of its key wait behind it,"
	}
	return fmt.Sprintf("message %d of stream %s cannot be read: %v. It stays there,%s until a process runs that can read it. "+
		"Run the version of the library that wrote it; or, to lose the message, stop the consumer and delete it from the stream", e.Position, e.Stream, e.Err, behind)
}

// Unwrap returns why it cannot be read.
func (e *UnreadableError) Unwrap() error { return e.Err }

// kept is a message that came back and cannot be read. It stays here until the end, when it is
// returned: the next process may be able to read it. What has no key is returned again and again:
// another member may be able to. Its payload is not kept.
type kept struct {
	del wire.Delivery
	why *UnreadableError
	at  time.Time // when it was last delivered, or returned
}

// keptFor is how long a message without a key is kept before it is returned. If it has not come again
// after several times as long another member has it.
const (
	keptFor       = 10 * time.Second
	keptElsewhere = 6 * keptFor
)

// keep keeps del, which m brought. It is reported once.
func (p *puller) keep(del *wire.Delivery, m *nats.Msg, why *UnreadableError) {
	d := p.d
	fresh, room := p.hold(del, m)
	if fresh {
		d.mu.Lock()
		p.keepLocked(positionOf(del))
		one := kept{*del, why, time.Now()}
		one.del.Data, one.del.Header = nil, nil
		if d.rememberKeptLocked(one) {
			d.reportLocked(why)
		}
		d.order.keptLocked(why)
		d.mu.Unlock()
		d.wakeMaintainer()
	}
	if room {
		p.pull()
	}
}

// rememberKeptLocked adds a message to those that are kept. It returns false if it was kept before.
func (d *Durable) rememberKeptLocked(one kept) (first bool) {
	for i := range d.kept {
		if positionOf(&d.kept[i].del) == positionOf(&one.del) {
			d.kept[i] = one
			return false
		}
	}
	d.kept = append(d.kept, one)
	return true
}

// returnOldKept returns what has no key and was kept for long: all of it before a Quiesce, Freeze or
// Drain, or nothing. The maintainer calls it.
func (d *Durable) returnOldKept(now time.Time) {
	replies := d.takeOldKept(now)
	for _, reply := range replies {
		_ = d.link.Publish(&wire.Out{Subject: reply, Data: nakBody}) // else it comes again
	}
	if len(replies) > 0 {
		d.endSettling()
	}
}

// takeOldKept lets go of what returnOldKept returns, and returns where to say so. If there is any,
// endSettling must follow.
func (d *Durable) takeOldKept(now time.Time) (replies []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining || d.quiesced || d.frozen != nil {
		return nil
	}
	isHeld := func(one kept) bool { return d.held[positionOf(&one.del)].hold == one.del.Stored.HoldID }
	d.kept = slices.DeleteFunc(d.kept, func(one kept) bool {
		return one.hasNoKey(d) && !isHeld(one) && now.Sub(one.at) >= keptElsewhere
	})
	for i := range d.kept {
		if one := &d.kept[i]; one.hasNoKey(d) && isHeld(*one) && now.Sub(one.at) >= keptFor {
			one.at = now
			reply, _ := d.letGoLocked(&one.del, nakBody)
			replies = append(replies, reply)
		}
	}
	if len(replies) > 0 {
		d.settling.Add(1)
	}
	return replies
}

// hasNoKey reports whether no other message waits behind k.
func (k *kept) hasNoKey(d *Durable) bool { return d.cfg.Key == nil || k.why.Key == "" }

// dropKept lets go of what is kept of a follower, which does not exist any more.
func (d *Durable) dropKept(token string, sequence uint64) {
	var gone []kept
	d.mu.Lock()
	d.kept = slices.DeleteFunc(d.kept, func(one kept) bool {
		isGone := one.why.Key == token && one.why.Sequence == sequence
		if isGone {
			gone = append(gone, one)
		}
		return isGone
	})
	d.mu.Unlock()
	for i := range gone {
		_, _ = d.release(&gone[i].del, nakBody) // should it exist all the same, it comes again
	}
}

// keepLocked has a held message take no room for others: it may stay for long.
func (p *puller) keepLocked(at position) {
	h := p.d.held[at]
	p.kept++
	p.heldBytes -= h.size
	h.kept, h.size = true, 0
	p.d.held[at] = h
}

// returnKept returns what is kept. The drain calls it.
func (d *Durable) returnKept() {
	d.mu.Lock()
	all := d.kept
	d.kept = nil
	d.mu.Unlock()
	for i := range all {
		_, _ = d.release(&all[i].del, nakBody)
	}
}

// keptLocked returns why a message is kept, or nil.
func (d *Durable) keptLocked() error {
	for i := range d.kept {
		if one := &d.kept[i]; d.held[positionOf(&one.del)].hold == one.del.Stored.HoldID {
			return one.why
		}
	}
	return nil
}

// unreadable is why followers of a key do not return for now. Guarded by Durable.mu.
type unreadable struct {
	why  *UnreadableError
	look time.Time // when to try again: somebody may have removed it
}

// unreadableLocked records that a follower of a key cannot be read. It is reported once.
func (f *followers) unreadableLocked(kf *keyFollowers, why *UnreadableError) {
	if before := kf.unreadable; before == nil || before.why.Position != why.Position {
		f.k.d.reportLocked(why)
	}
	kf.unreadable = &unreadable{why: why, look: time.Now().Add(checkReturning)}
}

// keepLocked has all later messages of a key wait behind one that came back and cannot be read, until
// it does not exist any more.
func (f *followers) keepLocked(why *UnreadableError) {
	if why.Key == "" || f.store == nil {
		return
	}
	kf := f.keys[why.Key]
	if kf == nil {
		kf = new(keyFollowers)
		f.keys[why.Key] = kf
	}
	before := len(kf.all)
	i := f.insertLocked(kf, why.Sequence)
	if len(kf.all) > before { // it is in no other state than that it came back
		kf.cameBack(i)
	}
	if !kf.all[i].unread {
		kf.all[i].unread = true
		kf.unread++
	}
	kf.moved = time.Now()
}

// cameBack records that the i-th follower came back, cannot be read, and is not stored besides.
func (kf *keyFollowers) cameBack(i int) {
	if !kf.all[i].comesBack() {
		kf.returning++
	}
	kf.all[i].state, kf.all[i].puts = returned, 0
}

// stalledLocked is why followers of a key do not return, or nil.
func (f *followers) stalledLocked() error {
	for _, kf := range f.keys {
		if kf.unreadable != nil {
			return kf.unreadable.why
		}
	}
	if err := cmp.Or(f.puts.err, f.moves.err); err != nil && len(f.keys) > 0 {
		return failedCall(err)
	}
	return nil
}
