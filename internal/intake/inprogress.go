package intake

import (
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// keep is the goroutine that does what only time brings about: the next attempt
// of a message, in-progress signals, and asking again when the server is silent.
func (d *Durable) keep() {
	defer close(d.kept)
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
		d.keepAlive(now)
		d.lookAtStuck()
		d.pushAll(d.solo.Overdue(now))
		for _, s := range d.sources {
			s.listenForLife(now)
			s.watchGate(now)
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
	next := now.Add(min(d.aliveEvery(), heartbeat))
	if at, ok := d.waiting.next(); ok && at.Before(next) {
		next = at
	}
	for _, s := range d.sources {
		if s.pullAfter.After(now) && s.pullAfter.Before(next) {
			next = s.pullAfter
		}
		if d.keyed() && !s.gate.open && s.gate.ask.Before(next) {
			next = s.gate.ask
		}
	}
	return next
}

func (d *Durable) retryDue(now time.Time) {
	d.mu.Lock()
	ripe := d.waiting.ripe(now)
	for i := range ripe {
		d.sources[ripe[i].Stored.Source].waiting--
	}
	d.mu.Unlock()
	for i := range ripe {
		d.reenter(ripe[i])
	}
}

// aliveEvery is how often held messages are looked at, and how old the last signal
// of one may then be. So two lie at most half of AckWait apart, and one may be lost.
func (d *Durable) aliveEvery() time.Duration { return d.cfg.AckWait / 4 }

// keepAlive tells the server of the messages that are being worked on.
func (d *Durable) keepAlive(now time.Time) {
	if !d.link.Conn().IsConnected() {
		return // the server that comes back gets the next signal
	}
	var replies []string
	d.mu.Lock()
	for p, h := range d.held {
		if now.Sub(h.alive) >= d.aliveEvery() {
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
