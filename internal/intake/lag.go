package intake

import (
	"encoding/json"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// How far a consumer is behind is asked of the server now and then. What this process
// does in between it knows by itself: each message says how many are left after it.
const (
	lagEvery     = 10 * time.Second
	lagEveryIdle = time.Minute // where nothing was left, and nothing has come since
)

// getType is the type of the answer to a request for a stored message.
const getType = "io.nats.jetstream.api.v1.stream_msg_get_response"

// lag is what is known of the messages of a source that are not done. Guarded by the
// Durable's mu.
type lag struct {
	asked   time.Time
	pending uint64 // not sent yet, by the latest word
	others  int    // with other members, at the latest answer
	moved   bool   // messages came since it was asked

	floor  uint64    // the stream's sequence up to which all were done at the latest answer
	known  bool      // oldest belongs to floor
	oldest time.Time // when the first after floor was stored; zero for none
}

// askLag asks for it when it is time.
func (s *puller) askLag(now time.Time) {
	if s.Get == "" || !s.d.link.Conn().IsConnected() {
		return
	}
	s.d.mu.Lock()
	every := lagEvery
	if s.lag.pending == 0 && s.lag.others == 0 && s.held == 0 && !s.lag.moved && !s.lag.asked.IsZero() {
		every = lagEveryIdle
	}
	due := !s.d.draining && now.Sub(s.lag.asked) >= every
	if due {
		s.lag.asked, s.lag.moved = now, false
	}
	s.d.mu.Unlock()
	if due {
		_ = s.inquire() // the next one may succeed
	}
}

// recordLagLocked notes the server's answer. It returns the request for the oldest message
// that is not done, where that is another one than before.
func (s *puller) recordLagLocked(i *info) *wire.Out {
	if i.Type == getType {
		s.lag.oldest, s.lag.known = i.Message.Time, true
		return nil
	}
	s.lag.pending, s.lag.others = i.Pending, max(i.AckPending-s.held, 0)
	if i.Pending == 0 && i.AckPending == 0 || s.Get == "" || s.lag.known && s.lag.floor == i.Floor.Stream {
		return nil
	}
	s.lag.floor, s.lag.known = i.Floor.Stream, false
	body, err := json.Marshal(struct {
		Seq  uint64 `json:"seq"`
		Next string `json:"next_by_subj"`
	}{i.Floor.Stream + 1, s.Filter})
	if err != nil {
		return nil
	}
	return &wire.Out{Subject: s.Get, Reply: s.sub.Subject, Data: body}
}

// Lag is how many messages of the stream are not done, in all members together, and
// when the oldest was stored: zero where that is not known. It is what the server said
// lately, and what this process has done since.
func (d *Durable) Lag() (messages int, oldest time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.pullers[0]
	messages = int(s.lag.pending) + s.lag.others + s.held
	if messages == 0 {
		return 0, time.Time{}
	}
	if s.lag.others > 0 || s.held == 0 {
		oldest = s.lag.oldest
	}
	for p, h := range d.held {
		if p.source == 0 && (oldest.IsZero() || h.stored.Before(oldest)) {
			oldest = h.stored
		}
	}
	return messages, oldest
}
