package intake

import (
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

var progressBody = []byte("+WPI")

// maintain is the goroutine that does what only time brings about: the next attempt
// of a message, in-progress signals, and asking again when the server is silent.
func (d *Durable) maintain() {
	defer close(d.maintained)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-d.wake:
		case <-d.stop:
			return
		}
		now := time.Now()
		d.resumeDue(now)
		d.signalProgress(now)
		d.returnOldKept(now)
		d.order.maintain(now)
		d.pushAll(d.isolation.Overdue(now))
		for _, p := range d.pullers {
			p.checkSilence(now)
			p.pull()
			p.askLag(now)
		}
		timer.Reset(time.Until(d.nextLook(now)))
	}
}

// wakeMaintainer has the maintainer look at once.
func (d *Durable) wakeMaintainer() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// nextLook is when the maintainer has something to do again.
func (d *Durable) nextLook(now time.Time) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := now.Add(min(d.progressIntervalLocked(), heartbeat))
	if at, ok := d.waiting.next(); ok && at.Before(next) {
		next = at
	}
	for _, p := range d.pullers {
		if p.pullAfter.After(now) && p.pullAfter.Before(next) {
			next = p.pullAfter
		}
	}
	if at := d.order.nextLocked(); !at.IsZero() && at.Before(next) {
		next = at
	}
	return next
}

// progressIntervalLocked is how often held messages are looked at, and how old the last signal
// of one may then be. So two lie at most half of AckWait apart, and one may be lost.
func (d *Durable) progressIntervalLocked() time.Duration { return d.ackWait / 4 }

// signalProgress sends in-progress signals for the held messages, so that the server
// redelivers none. The maintainer calls it.
func (d *Durable) signalProgress(now time.Time) {
	if !d.link.Conn().IsConnected() {
		return // the server that comes back gets the next signal
	}
	var replies []string
	d.mu.Lock()
	for at, h := range d.held {
		if now.Sub(h.alive) >= d.progressIntervalLocked() {
			h.alive = now
			d.held[at] = h
			replies = append(replies, h.reply)
		}
	}
	d.mu.Unlock()
	for _, reply := range replies {
		_ = d.link.Publish(&wire.Out{Subject: reply, Data: progressBody}) // the next one may succeed
	}
}
