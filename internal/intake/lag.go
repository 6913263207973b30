package intake

import (
	"encoding/json"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// How far a consumer is behind is asked of the server now and then. What this process
// does in between it knows by itself: each message says how many are left after it.
const (
	lagInterval     = 10 * time.Second
	lagIntervalIdle = time.Minute // where nothing was left, and nothing has come since
)

// getType is the type of the reply to a request for a stored message.
const getType = "io.nats.jetstream.api.v1.stream_msg_get_response"

// lag is what is known of the messages of a source that are not done. Guarded by
// Durable.mu.
type lag struct {
	asked   time.Time
	pending uint64 // not sent yet, as far as the server last said
	others  int    // with other processes, at the latest reply
	moved   bool   // messages came since it was asked, of any source

	floor  uint64    // the stream's sequence up to which all were done at the latest reply
	known  bool      // oldest belongs to floor
	oldest time.Time // when the first after floor was stored; zero for none
}

// askLag asks for it when it is time. The maintainer calls it.
func (p *puller) askLag(now time.Time) {
	if p.Get == "" || !p.d.link.Conn().IsConnected() {
		return
	}
	p.d.mu.Lock()
	interval := lagInterval
	if p.lag.pending == 0 && p.lag.others == 0 && len(p.d.held) == 0 && !p.lag.moved && !p.lag.asked.IsZero() {
		interval = lagIntervalIdle
	}
	due := !p.d.draining && now.Sub(p.lag.asked) >= interval
	if due {
		p.lag.asked, p.lag.moved = now, false
	}
	p.d.mu.Unlock()
	if due {
		_ = p.inquire() // the next one may succeed
	}
}

// recordLagLocked records the server's reply. It returns the request for the oldest message
// that is not done, where that is another one than before.
func (p *puller) recordLagLocked(i *consumerInfo) *wire.Out {
	if i.Type == getType {
		p.lag.oldest, p.lag.known = i.Message.Time, true
		return nil
	}
	p.lag.pending, p.lag.others = i.Pending, max(i.AckPending-p.held, 0)
	if i.Pending == 0 && i.AckPending == 0 || p.Get == "" || p.lag.known && p.lag.floor == i.Floor.Stream {
		return nil
	}
	p.lag.floor, p.lag.known = i.Floor.Stream, false
	body, err := json.Marshal(struct {
		Seq  uint64 `json:"seq"`
		Next string `json:"next_by_subj"`
	}{i.Floor.Stream + 1, p.Filter})
	if err != nil {
		return nil
	}
	return &wire.Out{Subject: p.Get, Reply: p.sub.Subject, Data: body}
}

// Lag is how many messages of the stream are not done, in all processes together, and
// when the oldest was stored: zero where that is not known. It is what the server said
// lately, and what this process has done since.
func (d *Durable) Lag() (messages int, oldest time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.pullers[0]
	messages = int(p.lag.pending) + p.lag.others + p.held + d.order.storedLocked()
	if messages == 0 {
		return 0, time.Time{}
	}
	if p.lag.others > 0 || p.held == 0 {
		oldest = p.lag.oldest
	}
	for at, h := range d.held {
		if at.source == 0 && (oldest.IsZero() || h.stored.Before(oldest)) {
			oldest = h.stored
		}
	}
	return messages, oldest
}
