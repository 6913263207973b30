package intake

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// reconnected forgets what was asked of a server that is gone. It is called by nats.go
// when the connection is back.
func (d *Durable) reconnected() {
	d.mu.Lock()
	now := time.Now()
	for _, p := range d.pullers {
		p.beginLocked(now, time.Time{})
		if errors.Is(p.stalled, errSilent) { // that was the connection of before
			p.stalled = nil
		}
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
	case err == nil && left >= 0: // the end of a request, with what it still had to deliver
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
		return errors.New("no server accepts requests for messages: the stream or the consumer does not exist, or has no leader")
	}
	if strings.HasPrefix(description, "Exceeded MaxRequestBatch") {
		description += "; raise max_request_batch of the server, or of the durable if another program made it"
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
