package intake

import "time"

const (
	// lookAtRoom is between two looks while time is lost.
	lookAtRoom = 10 * time.Millisecond
	// lookAgainAtRoom is between two looks while that may begin, or nothing can be done about it.
	lookAgainAtRoom = 100 * time.Millisecond
	// lostToOthers is how much time may be lost before the messages behind failing ones are stored,
	// if those fail for lasting already.
	lostToOthers = 50 * time.Millisecond
	lasting      = 20 * time.Millisecond
	// lostMuch is the same for all, and where no messages of other keys are known. Some may not fit here.
	lostMuch = time.Second
	// lostShare is the part of the time that may be lost again and again.
	lostShare = 10
	// storingTakes is about how long it takes to store a message.
	storingTakes = 50 * time.Microsecond
	// pressedFor is how long it counts that messages of other keys had too little room.
	pressedFor = time.Second
	// fewInBatch is how many messages of a batch make a worker busy.
	fewInBatch = 10
	// knownFor is how long a key is known after a message of it was done.
	knownFor = 10 * time.Second
)

// room counts the time that is lost while nothing more fits, because of messages behind failing
// or stored ones, and workers have nothing to do. To store those messages costs several requests for
// each. So it is cheaper to wait for the next attempt where that is soon and happens seldom. A part of
// all other time is subtracted, and how long the storing takes: it is to take no more than is lost.
//
// States: not losing ⇄ losing. Guarded by Durable.mu.
type room struct {
	losing  bool
	lost    time.Duration // lostMuch at most; less than zero after messages were stored
	looked  time.Time     // when that was counted
	look    time.Time     // when to look again; zero for no time
	pressed time.Time     // when messages were last stored because of other keys

	last   string    // the key of the message that was done last
	others time.Time // when a message of another key than the one before was done
}

// done records that a message was done.
func (r *room) done(key string) {
	if key != r.last && r.last != "" {
		r.others = time.Now()
	}
	r.last = key
}

// count counts the time since the last look. losing is the state from now on.
func (r *room) count(now time.Time, losing bool) (lost time.Duration) {
	switch passed := now.Sub(r.looked); {
	case r.losing:
		r.lost = min(r.lost+min(passed, 2*lookAtRoom), lostMuch)
	case r.lost > 0:
		r.lost = max(r.lost-passed/lostShare, 0)
	default:
		r.lost = min(r.lost+passed/lostShare, 0)
	}
	r.losing, r.looked = losing, now
	return r.lost
}

// stored records that so many messages are stored. known says that there are other keys.
func (r *room) stored(now time.Time, n int, known bool) {
	if n == 0 {
		return
	}
	r.lost = -time.Duration(n) * storingTakes
	if known {
		r.pressed = now
	}
}

// makeRoomLocked stores the messages behind failing and stored ones if much time was lost by them. It
// judges all stuck keys together, since each of many has little here. The maintainer calls it.
func (k *keyed) makeRoomLocked(now time.Time) {
	r := &k.room
	if r.losing && now.Before(r.looked.Add(lookAtRoom)) {
		return
	}
	size, known := k.fullSizeLocked(), k.knowsOthersLocked(now)
	losing := size > 0 && (known || len(k.stuck) > 0) && k.takenLocked() >= max(size/8, 1) && k.hasIdleWorkers()
	lost := r.count(now, losing)
	r.look = time.Time{}
	switch {
	case size > 0 && !losing && len(k.stuck)+k.followers.behind > 0:
		r.look = now.Add(lookAgainAtRoom)
	case !losing:
	case lost < lostToOthers, lost < lostMuch && !known:
		r.look = now.Add(lookAtRoom)
	default:
		n := k.spillLocked(now, size, lost >= lostMuch)
		r.stored(now, n, known)
		r.look = now.Add(lookAtRoom)
		if n == 0 && lost >= lostMuch {
			r.look = now.Add(lookAgainAtRoom)
		}
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

// takenLocked is how many messages wait here behind failing or stored ones.
func (k *keyed) takenLocked() (behind int) {
	for key := range k.stuck {
		behind += k.lanes.Behind(key)
	}
	return behind + k.followers.behind
}

// hasIdleWorkers reports whether more messages could run than there are. Where they run in batches, a
// worker is busy with a few already: its batch took all there were.
func (k *keyed) hasIdleWorkers() bool {
	ready, _ := k.d.queue.Backlog()
	if k.d.cfg.Batch.Run != nil {
		ready += k.lanes.Ready()
	}
	return k.d.queue.InFlight()+ready < min(k.d.cfg.atOnce(), k.d.cfg.Concurrency*fewInBatch)
}

// knowsOthersLocked reports whether there are messages of several keys: some are here, or were
// done lately.
func (k *keyed) knowsOthersLocked(now time.Time) bool {
	return k.lanes.Keys() > 1 || now.Sub(k.room.others) < knownFor
}

// spillLocked stores the messages behind the failing ones, except for a few of each key, in all an
// eighth of what fits, and those behind stored ones. Unless it is to store all, it leaves those behind
// what fails for a short time only. It returns how many it stores.
func (k *keyed) spillLocked(now time.Time, size int, all bool) (n int) {
	keep := min(size/(8*max(len(k.stuck), 1)), size/32)
	for key, s := range k.stuck {
		if all || s.lasts(now) {
			n += k.followers.spillLocked(key, keep)
			s.spilled = s.spilled || k.followers.hasLocked(key)
		}
	}
	return n + k.followers.storeAllBehindLocked()
}
