package intake

import (
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// With keys a message that comes is sorted into the lane of its key, and what runs is
// the first of each lane. A message without a key runs beside them.

// name gives del its key. A message that has none because that failed is dead.
func (d *Durable) name(del *wire.Delivery) {
	if d.cfg.Key == nil {
		return
	}
	key, err := d.cfg.Key(del)
	if err != nil {
		del.Stored.Dead = err
		del.Stored.Attempt-- // it has never been tried
		return
	}
	del.Stored.Key = key
}

func hasKey(del *wire.Delivery) bool { return del.Stored.Key != "" }

// enter has del run, or wait in its lane.
func (d *Durable) enter(del wire.Delivery) {
	if !hasKey(&del) || d.lanes.Enter(del) {
		d.push(del)
	} else {
		d.crowd(&del)
	}
}

// reenter has del, which waited for its next attempt, run again after those of its
// lane that are before it.
func (d *Durable) reenter(del wire.Delivery) {
	if !hasKey(&del) {
		d.push(del)
	} else if first, ok := d.lanes.Again(del); ok {
		d.push(first)
	}
}

// leave lets the next message of del's lane run.
func (d *Durable) leave(del *wire.Delivery) {
	if !hasKey(del) {
		return
	}
	if next, ok := d.lanes.Next(del.Stored.Key); ok {
		d.push(next)
	}
}

// keyed is whether the intake keeps the order of keys.
func (d *Durable) keyed() bool { return d.lanes != nil }

// shutBarrierLocked keeps messages of the lanes from beginning until s has all again that
// the server gave out.
func (d *Durable) shutBarrierLocked(s *puller, now time.Time) {
	if d.keyed() {
		d.lanes.Close()
		s.barrier.shut(now)
		d.wakeMaintainer()
	}
}

// shutBarriers is shutBarrierLocked for all pullers.
func (d *Durable) shutBarriers(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.pullers {
		d.shutBarrierLocked(s, now)
	}
}

// answeredLocked heeds what the server says of a source's consumer. It returns the
// messages that may begin when that opens the lanes.
func (s *puller) answeredLocked(now time.Time, i *info) []wire.Delivery {
	d := s.d
	if !d.keyed() || s.stale > 0 || s.repeatLocked(i.Created) || !s.barrier.answer(now, i.Delivered.Consumer, i.AckPending, s.hereBy(i.Delivered.Consumer)) {
		return nil
	}
	for _, other := range d.pullers {
		if !other.barrier.open {
			return nil
		}
	}
	d.forgetSettledLocked()
	return d.lanes.Open()
}

// hereBy is how many of the deliveries up to a number are held.
func (s *puller) hereBy(number uint64) (n int) {
	for p, h := range s.d.held {
		if p.source == s.index && h.number <= number {
			n++
		}
	}
	return n
}

// watchBarrier asks the server about a source's consumer when that may open its barrier,
// and tells when that takes long.
func (s *puller) watchBarrier(now time.Time) {
	if !s.d.keyed() {
		return
	}
	s.d.mu.Lock()
	ask := s.barrier.mustAsk(now)
	if err := s.barrier.complain(now, s.d.cfg.AckWait); err != nil && !s.d.draining {
		s.d.reportLocked(err)
	}
	s.d.mu.Unlock()
	if ask && s.d.link.Conn().IsConnected() {
		_ = s.inquire() // it is asked again
	}
}
