package intake

import "time"

const (
	// lookAtRoom is between two looks while time is lost.
	lookAtRoom = 10 * time.Millisecond
	// lookAgainAtRoom is between two looks while that may begin, or nothing can be done about it.
	lookAgainAtRoom = 100 * time.Millisecond
	// lostToOthers is how much time may be lost before the messages behind failing ones are stored.
	lostToOthers = 50 * time.Millisecond
	// lostToUnknown is the same where no messages of other keys are known. Some may not fit here.
	lostToUnknown = time.Second
	// lostShare is the part of the time that may be lost again and again.
	lostShare = 10
)

// room counts the time that is lost while nothing more fits, because of messages behind failing
// ones, and workers have nothing to do. A part of all other time is subtracted. To store those
// messages costs several requests for each. So it is cheaper to wait for the next attempt where
// that is soon and happens seldom.
//
// States: not losing ⇄ losing. Guarded by Durable.mu.
type room struct {
	losing bool
	lost   time.Duration // lostToUnknown at most
	looked time.Time     // when that was counted
	look   time.Time     // when to look again; zero for no time
}

// count counts the time since the last look. losing is the state from now on.
func (r *room) count(now time.Time, losing bool) (lost time.Duration) {
	switch passed := now.Sub(r.looked); {
	case r.losing:
		r.lost = min(r.lost+min(passed, 2*lookAtRoom), lostToUnknown)
	default:
		r.lost = max(r.lost-passed/lostShare, 0)
	}
	r.losing, r.looked = losing, now
	return r.lost
}

// makeRoomLocked stores the messages behind failing ones if much time was lost by them. It judges
// all stuck keys together, since each of many has little here. The maintainer calls it.
func (k *keyed) makeRoomLocked(now time.Time) {
	r := &k.room
	if r.losing && now.Before(r.looked.Add(lookAtRoom)) {
		return
	}
	size := k.fullSizeLocked()
	losing := size > 0 && k.stuckTakeLocked() >= max(size/8, 1) && k.hasIdleWorkers()
	lost := r.count(now, losing)
	r.look = time.Time{}
	switch {
	case size > 0 && len(k.stuck) > 0 && !losing:
		r.look = now.Add(lookAgainAtRoom)
	case !losing:
	case lost < lostToOthers, lost < lostToUnknown && !k.knowsOthersLocked():
		r.look = now.Add(lookAtRoom)
	case k.spillStuckLocked(size):
		r.look = now.Add(lookAtRoom)
	default:
		r.look = now.Add(lookAgainAtRoom)
	}
}

// fullSizeLocked is how many messages fit in where nothing more does, zero if there is room.
func (k *keyed) fullSizeLocked() (size int) {
	for i, p := range k.d.pullers {
		if !k.sources[i].full.IsZero() && (size == 0 || p.MaxHeld < size) {
			size = p.MaxHeld
		}
	}
	return size
}

// stuckTakeLocked is how many messages wait here behind failing ones.
func (k *keyed) stuckTakeLocked() (behind int) {
	for key := range k.stuck {
		behind += k.lanes.Behind(key)
	}
	return behind
}

// hasIdleWorkers reports whether more messages could run than there are.
func (k *keyed) hasIdleWorkers() bool {
	ready, _ := k.d.queue.Backlog()
	if k.d.cfg.Batch.Run != nil {
		ready += k.lanes.Ready()
	}
	return k.d.queue.InFlight()+ready < k.d.cfg.atOnce()
}

// knowsOthersLocked reports whether there are messages of other keys: some are here, or were
// done while a key was stuck.
func (k *keyed) knowsOthersLocked() bool {
	for _, s := range k.stuck {
		if k.done != s.finished {
			return true
		}
	}
	return k.lanes.Keys() > 1
}

// spillStuckLocked stores the messages behind the failing ones, except for a few of each key: in
// all an eighth of what fits. It returns false if there are none to store.
func (k *keyed) spillStuckLocked(size int) (spilled bool) {
	keep := min(size/(8*len(k.stuck)), size/32)
	for key := range k.stuck {
		if k.followers.spillLocked(key, keep) {
			spilled = true
		}
	}
	return spilled
}
