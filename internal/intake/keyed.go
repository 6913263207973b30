package intake

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/wire"
)

// keyed is the order of messages with keys: of each key one message runs at a time, in
// stream order, or several in one batch. A message that comes is sorted into the lane of its key, and what runs is
// the first of each lane. A message without a key runs beside them.
//
// No message with a key begins before a start barrier has seen that no earlier one of
// its key may be elsewhere. The lanes are closed while the barrier of any puller is.
//
// Everything but the lanes, which have a lock of their own, is guarded by Durable.mu.
type keyed struct {
	d         *Durable
	lanes     *dispatch.Lanes
	sources   []keyedSource // by the index of their puller
	recent    recentSettlements
	stuck     map[string]*stuckKey // by key
	room      room
	followers *followers
}

// keyedSource is what keyed knows of one puller.
type keyedSource struct {
	barrier startBarrier
	full    time.Time // since when what waits leaves no room; zero if there is room
	created time.Time // when the consumer was created, as far as that was said
	repeat  bool      // the connection was lost: repeat settlements that may not have arrived
	stale   int       // messages in the inbox that came before the connection was lost
}

// newKeyed returns closed lanes; the barriers open them.
func newKeyed(d *Durable) *keyed {
	k := &keyed{d: d, lanes: dispatch.NewLanes(true), sources: make([]keyedSource, 1+len(d.cfg.More)), stuck: make(map[string]*stuckKey)}
	k.followers = newFollowers(k, d.cfg.Followers)
	if d.cfg.Batch.Run != nil {
		d.queue.FillFrom(k.lanes)
	}
	return k
}

func hasKey(s *wire.Stored) bool { return s.Key != "" }

// receiver counts, besides, what was left of the last connection.
func (k *keyed) receiver(p *puller) nats.MsgHandler {
	s := &k.sources[p.index]
	return func(m *nats.Msg) {
		p.receive(m)
		k.d.mu.Lock()
		s.stale = max(s.stale-1, 0)
		k.d.mu.Unlock()
	}
}

// admit gives del its key. A message that has none because that failed is dead.
func (k *keyed) admit(p *puller, del *wire.Delivery, reply string) (settled bool) {
	if k.settledBefore(p, del, reply) {
		return true
	}
	key, err := k.d.cfg.Key(del)
	if err != nil {
		del.Stored.Dead = err
		del.Stored.Attempt-- // it has never been tried
		return false
	}
	del.Stored.Key = key
	return false
}

// deliveredLocked passes the delivery to the barrier of p.
func (k *keyed) deliveredLocked(p *puller, del *wire.Delivery, now time.Time, again bool) {
	b := &k.sources[p.index].barrier
	if !b.delivered(del.Stored.ConsumerSequence) {
		k.closeLocked(p, now)
	}
	switch {
	case again:
		b.cameAgain()
	case del.Stored.Deliveries > 1 && b.arrived(now):
		k.d.wakeMaintainer()
	}
}

func (k *keyed) keptLocked(why *UnreadableError) { k.followers.keepLocked(why) }

// arrive has del run, wait in its lane, or wait for or in the store of followers.
func (k *keyed) arrive(del wire.Delivery) {
	if !hasKey(del.Stored) || k.enter(del) {
		k.d.push(del)
	} else if k.d.cfg.Batch.Run != nil {
		k.d.queue.CheckBatch()
	}
}

// enter returns true if del, which has a key, may run at once.
func (k *keyed) enter(del wire.Delivery) bool {
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	return k.enterLocked(del)
}

// enterLocked has a message of the same key that waits for what comes back looked at, too.
func (k *keyed) enterLocked(del wire.Delivery) bool {
	if del.Stored.Source != 0 && k.d.waiting.hurry(time.Now(), del.Stored.Key) {
		k.d.wakeMaintainer()
	}
	if k.followers.admitLocked(&del) {
		return false
	}
	first := k.lanes.Enter(del)
	k.followers.enterFreeLocked() // none of them may run: del is before them
	return first
}

// resume has del run again after those of its lane that are before it. It does not wait for a
// whole batch, since its key waits for it.
func (k *keyed) resume(del wire.Delivery) {
	if !hasKey(del.Stored) {
		k.d.push(del)
	} else if first, ok := k.lanes.Again(del); ok {
		k.d.pushAll([]wire.Delivery{first})
	}
}

// mayRun asks the recovery whether an earlier message of the key is a dead letter or
// comes back first.
func (k *keyed) mayRun(del wire.Delivery) (wait bool, barred error) {
	if !hasKey(del.Stored) || del.Stored.MayRun {
		return false, nil
	}
	wait, barred = k.d.cfg.Recovery.MayRun(del)
	del.Stored.MayRun = !wait && barred == nil
	if wait {
		del.Stored.Rechecks++
	} else {
		del.Stored.Rechecks = 0
	}
	return wait, barred
}

// lines puts the messages of each key into one line. What has no key waits for no other.
func (k *keyed) lines(all []wire.Delivery) (lines [][]wire.Delivery) {
	of := make(map[string]int)
	for _, del := range all {
		i, there := of[del.Stored.Key]
		if !there || !hasKey(del.Stored) {
			i = len(lines)
			of[del.Stored.Key] = i
			lines = append(lines, nil)
		}
		lines[i] = append(lines[i], del)
	}
	return lines
}

// putBack has messages of a key wait in its lane again. While draining the end returns them.
func (k *keyed) putBack(ds []wire.Delivery) {
	if k.lanes.PutBack(ds) {
		return
	}
	for i := range ds {
		k.d.again(ds[i], 0)
	}
}

// finished lets the next message of the lane of del run.
func (k *keyed) finished(del wire.Delivery) {
	k.d.mu.Lock()
	k.room.done(del.Stored.Key)
	delete(k.stuck, del.Stored.Key)
	k.d.mu.Unlock()
	if !hasKey(del.Stored) {
		return
	}
	if next, ok := k.lanes.Next(del.Stored.Key); ok {
		k.d.push(next)
	}
	k.d.mu.Lock()
	k.followers.readyKeyLocked(del.Stored.Key)
	k.d.mu.Unlock()
}

// mayDefer is false for a message with a key, since those behind it wait here.
func (k *keyed) mayDefer(s *wire.Stored) bool { return !hasKey(s) }

func (k *keyed) settledLocked(at position, h hold, body []byte) {
	k.recent.add(at, recentSettlement{h.stored, h.reply, body})
}

// waitingLocked is zero while the barrier is closed: what waits for that is no reason to
// ask for more.
func (k *keyed) waitingLocked(p *puller) int {
	if !k.sources[p.index].barrier.open {
		return 0
	}
	return k.lanes.Waiting(p.index) + k.followers.hereLocked(p.index)
}

// creditLocked leaves p no more than MaxHeld, as messages that wait in lanes do not
// count for the window. After each answer of the server there is room for those without
// which the barrier stays closed.
func (k *keyed) creditLocked(p *puller, messages, bytes int) (int, int) {
	s := &k.sources[p.index]
	few := max(p.MaxHeld/8, 1)
	full := p.window.hasRoom(p.here(), p.asked) && (messages == 0 || p.MaxHeld-p.held < few)
	if room := p.MaxHeld - p.held - p.asked; room < min(messages, few) {
		messages = 0 // not one at a time
	} else {
		messages = min(messages, room)
	}
	switch {
	case !full:
		s.full = time.Time{}
	case s.full.IsZero():
		s.full = time.Now()
		k.d.wakeMaintainer()
	}
	if wants := s.barrier.wants(p.asked); wants > messages {
		return wants, max(bytes, 2*k.d.link.MaxPayload())
	}
	return messages, bytes
}

func (k *keyed) wantsMoreLocked(p *puller) bool { return k.sources[p.index].barrier.wantsMore(p.asked) }

func (k *keyed) startLocked(p *puller, now time.Time) { k.closeLocked(p, now) }

// reconnectedLocked closes the barrier: what the server says now counts, not what waits
// in the inbox of one that is gone.
func (k *keyed) reconnectedLocked(p *puller, now time.Time) {
	s := &k.sources[p.index]
	s.stale, _, _ = p.sub.Pending()
	s.repeat = true
	k.closeLocked(p, now)
}

// closeLocked keeps messages in their lanes until p has all again that the server gave
// out.
func (k *keyed) closeLocked(p *puller, now time.Time) {
	k.lanes.Close()
	k.sources[p.index].barrier.close(now)
	k.d.wakeMaintainer()
}

// answeredLocked returns the first message of each lane when the answer opens the last
// barrier.
func (k *keyed) answeredLocked(p *puller, now time.Time, i *consumerInfo) []wire.Delivery {
	s := &k.sources[p.index]
	if s.stale > 0 || k.repeatLocked(p, i.Created) || !s.barrier.answer(now, i.Delivered.Consumer, i.AckPending, k.hereBy(p, i.Delivered.Consumer)) {
		return nil
	}
	if !k.openLocked() {
		return nil
	}
	k.d.authority.allHereLocked()
	k.d.wakeMaintainer() // followers can be returned
	return k.lanes.Open()
}

// openLocked reports whether the barriers of all sources are open.
func (k *keyed) openLocked() bool {
	for i := range k.sources {
		if !k.sources[i].barrier.open {
			return false
		}
	}
	return true
}

// hereBy is how many of the deliveries of p up to a number are held.
func (k *keyed) hereBy(p *puller, number uint64) (n int) {
	for at, h := range k.d.held {
		if at.source == p.index && h.number <= number {
			n++
		}
	}
	return n
}

// maintain looks at stuck keys, at the followers and at the barriers.
func (k *keyed) maintain(now time.Time) {
	k.d.mu.Lock()
	k.makeRoomLocked(now)
	k.lookAtStuckLocked(now)
	k.followers.maintainLocked(now)
	k.d.mu.Unlock()
	for _, p := range k.d.pullers {
		k.watchBarrier(p, now)
	}
}

// watchBarrier asks the server about the consumer of p when that may open its barrier,
// and reports when that takes long.
func (k *keyed) watchBarrier(p *puller, now time.Time) {
	b := &k.sources[p.index].barrier
	k.d.mu.Lock()
	ask := b.mustAsk(now)
	if err := b.overdue(now, k.d.ackWait); err != nil && !k.d.draining {
		k.d.reportLocked(err)
	}
	k.d.mu.Unlock()
	if ask && k.d.link.Conn().IsConnected() {
		_ = p.inquire() // it is asked again
	}
}

func (k *keyed) nextLocked() (next time.Time) {
	for i := range k.sources {
		if b := &k.sources[i].barrier; !b.open && (next.IsZero() || b.ask.Before(next)) {
			next = b.ask
		}
	}
	for _, at := range []time.Time{k.room.look, k.stuckDueLocked(), k.followers.dueLocked()} {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

func (k *keyed) backlog() (msgs, bytes int) {
	msgs, bytes = k.lanes.Backlog()
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	return msgs + len(k.followers.queue) + k.followers.early.count + k.followers.behind, bytes
}

func (k *keyed) stalledLocked() error {
	for i := range k.sources {
		if err := k.sources[i].barrier.reported; err != nil {
			return err
		}
	}
	if err := k.followers.stalledLocked(); err != nil {
		return err
	}
	return k.stuckLocked()
}

func (k *keyed) stop() []wire.Delivery { return append(k.followers.stop(), k.lanes.Stop()...) }

func (k *keyed) wait(ctx context.Context) { k.followers.wait(ctx) }

func (k *keyed) storedLocked() int { return k.followers.storedCountLocked() }
