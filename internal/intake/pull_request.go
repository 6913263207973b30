package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

const (
	pullExpiry = 30 * time.Second
	heartbeat  = 5 * time.Second // the server sends one when it has nothing else
	retryPull  = 250 * time.Millisecond
)

// pull has each puller ask for what its window has room for.
func (d *Durable) pull() {
	for _, p := range d.pullers {
		p.pull()
	}
}

// pull asks for messages once half the window is free. Every goroutine that makes room
// calls it.
func (p *puller) pull() {
	messages, bytes, doubt := p.want()
	if messages == 0 {
		return
	}
	err := p.ask(messages, bytes)
	if doubt && err == nil {
		err = p.inquire()
	}
	if err == nil {
		return
	}
	now := time.Now()
	p.d.mu.Lock()
	p.beginLocked(now, now.Add(retryPull))
	p.stallLocked(err)
	p.d.mu.Unlock()
	p.d.wakeMaintainer()
}

// want records as asked, and returns, how many messages there is room for, in how
// many bytes, and whether to ask about the consumer as well. Nothing is asked of a
// server that is not there: requests would pile up until it comes back.
func (p *puller) want() (messages, bytes int, doubt bool) {
	d := p.d
	connected := d.link.Conn().IsConnected()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.draining || d.quiesced || !connected || now.Before(p.pullAfter) {
		return 0, 0, false
	}
	messages, bytes = p.window.room(now, p.here(), p.asked, p.heldBytes, d.link.MaxPayload())
	messages, bytes = d.order.creditLocked(p, messages, bytes)
	if messages == 0 {
		return 0, 0, false
	}
	if p.asked == 0 {
		p.heard = now // it may have been long ago that anything was asked
	}
	p.asked += messages
	doubt, p.doubt = p.doubt, false
	return messages, bytes, doubt
}

// here is how many messages count for the window: not those that wait for their next
// attempt, nor those that wait for others. It is called with Durable.mu.
func (p *puller) here() int { return p.held - p.waiting - p.d.order.waitingLocked(p) }

// hasRoom reports cheaply whether it is worth while to ask for messages. It is called with
// Durable.mu.
func (p *puller) hasRoom() bool {
	return p.window.hasRoom(p.here(), p.asked) || p.d.order.wantsMoreLocked(p)
}

// ask sends a request for messages.
func (p *puller) ask(messages, bytes int) error {
	expiry := p.d.authority.pullExpiry()
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Bytes     int           `json:"max_bytes"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{messages, bytes, expiry, min(heartbeat, expiry/2)})
	if err != nil {
		return err
	}
	return p.d.link.Publish(&wire.Out{Subject: p.Next, Reply: p.sub.Subject, Data: body})
}

// beginLocked forgets what was asked of the server.
func (p *puller) beginLocked(now, pullAfter time.Time) {
	p.asked, p.heard, p.pullAfter = 0, now, pullAfter
}

// reconnected forgets what was asked of a server that is gone. It is called by nats.go
// when the connection is back.
func (d *Durable) reconnected() {
	d.mu.Lock()
	now := time.Now()
	for _, p := range d.pullers {
		p.beginLocked(now, time.Time{})
		d.order.reconnectedLocked(p, now)
	}
	d.mu.Unlock()
	d.pull()
}

// onServerMessage acts on what the server says: a status about a request, or a reply.
func (p *puller) onServerMessage(m *nats.Msg) {
	if status := m.Header.Get("Status"); status != "" {
		p.onStatus(m, status)
	} else {
		p.onReply(m)
	}
}

// onStatus acts on a status about a request.
func (p *puller) onStatus(m *nats.Msg, status string) {
	p.d.mu.Lock()
	p.heard = time.Now()
	if status == "100" { // a request waits at the consumer
		p.stalled = nil
		p.d.mu.Unlock()
		return
	}
	description := m.Header.Get("Description")
	left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	switch {
	case description == "Consumer Deleted":
		p.goneLocked()
	case err == nil: // the end of a request, with what it still had to deliver
		p.asked, p.stalled = max(p.asked-left, 0), nil
	default: // nobody there, or a refusal: begin afresh after a while
		p.beginLocked(p.heard, p.heard.Add(retryPull))
		p.doubt = status == noResponders
		p.stallLocked(refusal(status, description))
	}
	p.d.mu.Unlock()
	p.pull()
	p.d.wakeMaintainer()
}

// noResponders is the status of a request that nobody takes.
const noResponders = "503"

// refusal is an error for a status that ends a request out of turn.
func refusal(status, description string) error {
	if status == noResponders {
		return errors.New("nobody takes the requests for messages: the stream or the consumer is gone, or has no leader")
	}
	return fmt.Errorf("the server refuses to send messages: %s %s", status, description)
}

// stallLocked reports, once, that no messages can be had.
func (p *puller) stallLocked(err error) {
	if p.stalled != nil || p.d.draining {
		return
	}
	p.stalled = err
	p.d.reportLocked(err)
}

var errSilent = errors.New("the server has been silent for two heartbeats")

// checkSilence begins afresh when the server has not said anything for long. The
// maintainer calls it.
func (p *puller) checkSilence(now time.Time) {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if p.asked == 0 || now.Sub(p.heard) < 2*heartbeat {
		return
	}
	p.beginLocked(now, time.Time{})
	p.doubt = true
	p.stallLocked(errSilent)
	p.d.wakeMaintainer()
}
