package intake

import (
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// keep is the goroutine that does what only time brings about: the next attempt
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
		d.retryDue(now)
		d.signalProgress(now)
		d.lookAtStuck()
		d.pushAll(d.isolation.Overdue(now))
		for _, s := range d.pullers {
			s.checkSilence(now)
			s.watchBarrier(now)
			s.pull()
			s.askLag(now)
		}
		timer.Reset(time.Until(d.nextLook(now)))
	}
}

// nextLook is when keep has something to do again.
func (d *Durable) nextLook(now time.Time) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := now.Add(min(d.progressInterval(), heartbeat))
	if at, ok := d.waiting.next(); ok && at.Before(next) {
		next = at
	}
	for _, s := range d.pullers {
		if s.pullAfter.After(now) && s.pullAfter.Before(next) {
			next = s.pullAfter
		}
		if d.keyed() && !s.barrier.open && s.barrier.ask.Before(next) {
			next = s.barrier.ask
		}
	}
	return next
}

func (d *Durable) retryDue(now time.Time) {
	d.mu.Lock()
	ripe := d.waiting.ripe(now)
	for i := range ripe {
		d.pullers[ripe[i].Stored.Source].waiting--
	}
	d.mu.Unlock()
	for i := range ripe {
		d.reenter(ripe[i])
	}
}

// progressInterval is how often held messages are looked at, and how old the last signal
// of one may then be. So two lie at most half of AckWait apart, and one may be lost.
func (d *Durable) progressInterval() time.Duration { return d.cfg.AckWait / 4 }

// signalProgress tells the server of the messages that are being worked on.
func (d *Durable) signalProgress(now time.Time) {
	if !d.link.Conn().IsConnected() {
		return // the server that comes back gets the next signal
	}
	var replies []string
	d.mu.Lock()
	for p, h := range d.held {
		if now.Sub(h.alive) >= d.progressInterval() {
			h.alive = now
			d.held[p] = h
			replies = append(replies, h.reply)
		}
	}
	d.mu.Unlock()
	for _, reply := range replies {
		_ = d.link.Publish(&wire.Out{Subject: reply, Data: progressBody}) // the next one may succeed
	}
}
