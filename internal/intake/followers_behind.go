package intake

import (
	"cmp"
	"slices"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// Messages of the stream wait here behind the followers of their key, as long as there is room: to
// store one and have it come back costs many times as much as to handle it. They enter their lane
// when the last follower has come back.

// stayLocked reports whether the followers of a key stay for some time, so that what comes is stored
// at once. That is so while one cannot be read, while the message fails because of which they were
// stored, and, if other keys had too little room a moment ago, while one has failed for some time.
func (f *followers) stayLocked(kf *keyFollowers) bool {
	if kf.unread > 0 || kf.unreadable != nil {
		return true
	}
	s := f.k.stuck[kf.key]
	if s == nil || s.spilled {
		return s != nil
	}
	now := time.Now()
	return now.Sub(f.k.room.pressed) < pressedFor && s.lasts(now)
}

// waitBehindLocked has a message wait here, behind all followers of its key.
func (f *followers) waitBehindLocked(kf *keyFollowers, del wire.Delivery) {
	i, _ := slices.BinarySearchFunc(kf.behind, del.Stored.Sequence, func(one wire.Delivery, s uint64) int { return cmp.Compare(one.Stored.Sequence, s) })
	kf.behind = slices.Insert(kf.behind, i, del)
	f.behind++
}

// takeBehindLocked removes and returns what waits here behind the followers of a key.
func (f *followers) takeBehindLocked(kf *keyFollowers) (all []wire.Delivery) {
	all, kf.behind = kf.behind, nil
	f.behind -= len(all)
	return all
}

// storeBehindLocked stores what waits here behind the followers of a key. It returns how many
// messages these are.
func (f *followers) storeBehindLocked(kf *keyFollowers) int {
	all := f.takeBehindLocked(kf)
	for i := range all {
		f.putLocked(kf, all[i])
	}
	return len(all)
}

// storeAllBehindLocked is storeBehindLocked for all keys.
func (f *followers) storeAllBehindLocked() (stored int) {
	if f.stopped {
		return 0
	}
	for _, kf := range f.keys {
		stored += f.storeBehindLocked(kf)
	}
	return stored
}

// enterFreeLocked has the messages enter their lanes that wait behind no followers any more. It
// returns which may run at once.
func (f *followers) enterFreeLocked() (next []wire.Delivery) {
	for i := range f.free {
		if f.k.lanes.Enter(f.free[i]) {
			next = append(next, f.free[i])
		}
	}
	f.free = nil
	return next
}

// hasLocked reports whether a key has followers.
func (f *followers) hasLocked(key string) bool {
	if f.store == nil {
		return false
	}
	_, kf := f.ofKeyLocked(key)
	return kf != nil
}
