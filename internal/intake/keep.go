package intake

import (
	"errors"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

var errSilent = errors.New("the server has been silent for two heartbeats")

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
		d.reportTrouble()
		d.retryDue(now)
		d.keepAlive(now)
		d.listenForLife(now)
		d.pull()
		timer.Reset(time.Until(d.nextLook(now)))
	}
}

func (d *Durable) reportTrouble() {
	d.mu.Lock()
	err := d.trouble
	d.trouble = nil
	d.mu.Unlock()
	if err != nil {
		d.cfg.Stalled(err)
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
	if d.pullAfter.After(now) && d.pullAfter.Before(next) {
		next = d.pullAfter
	}
	return next
}

func (d *Durable) retryDue(now time.Time) {
	d.mu.Lock()
	ripe := d.waiting.ripe(now)
	d.mu.Unlock()
	for i := range ripe {
		d.push(ripe[i])
	}
}

// aliveEvery is how often held messages are looked at, and how old the last signal
// of one may then be. So two lie at most half of AckWait apart, and one may be lost.
func (d *Durable) aliveEvery() time.Duration { return d.cfg.AckWait / 4 }

// keepAlive tells the server of the messages that are being worked on.
func (d *Durable) keepAlive(now time.Time) {
	var replies []string
	d.mu.Lock()
	for seq, h := range d.held {
		if now.Sub(h.alive) >= d.aliveEvery() {
			d.held[seq] = hold{h.reply, now}
			replies = append(replies, h.reply)
		}
	}
	d.mu.Unlock()
	for _, reply := range replies {
		_ = d.link.Publish(&wire.Out{Subject: reply, Data: progressBody}) // the next one may succeed
	}
}

// listenForLife begins afresh when the server has not said anything for long.
func (d *Durable) listenForLife(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked == 0 || now.Sub(d.heard) < 2*heartbeat {
		return
	}
	d.asked, d.heard = 0, now
	d.stallLocked(errSilent)
	d.nudge()
}
