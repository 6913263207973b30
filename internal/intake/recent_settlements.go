package intake

import (
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// recentSettlements are the latest messages that were settled for good. Where the server
// may not know of a settlement, because the connection or the server itself went down or
// because it had just sent the message again, the settlement is sent again. Otherwise the
// message would be out for an AckWait, and those after it would wait. Guarded by Durable.mu.
type recentSettlements struct {
	at   map[position]recentSettlement
	ring []position
	next int
}

// recentSettlement is how one message was settled.
type recentSettlement struct {
	stored time.Time // when the server stored the message: a stream that is created again repeats its sequences
	reply  string
	body   []byte
}

// maxRecent is about what is settled in the 100 ms that a server may forget.
const maxRecent = 1024

func (r *recentSettlements) add(at position, s recentSettlement) {
	if r.at == nil {
		r.at = make(map[position]recentSettlement)
	}
	if _, there := r.at[at]; !there {
		if len(r.ring) < maxRecent {
			r.ring = append(r.ring, at)
		} else {
			delete(r.at, r.ring[r.next])
			r.ring[r.next] = at
			r.next = (r.next + 1) % maxRecent
		}
	}
	r.at[at] = s
}

// find returns how a message that is delivered again was settled.
func (r *recentSettlements) find(d *wire.Delivery) (body []byte, ok bool) {
	if d.Stored.Deliveries == 1 {
		return nil, false
	}
	s, ok := r.at[positionOf(d)]
	return s.body, ok && s.stored.Equal(d.Stored.Time)
}

// settledBefore reports whether del, which has come again, was settled here lately. Then
// it is settled again at reply. It would count as here while it is not out.
func (k *keyed) settledBefore(p *puller, del *wire.Delivery, reply string) bool {
	now := time.Now()
	k.d.mu.Lock()
	body, ok := k.recent.find(del)
	if ok {
		p.arrivedLocked(now)
		if !k.sources[p.index].barrier.delivered(del.Stored.ConsumerSequence) {
			k.closeLocked(p, now)
		}
	}
	k.d.mu.Unlock()
	if ok {
		_ = k.d.link.Publish(&wire.Out{Subject: reply, Data: body}) // else it comes again
	}
	return ok
}

// repeatLocked sends the latest settlements once more, when the connection was lost and
// the consumer is still the one it was. It returns true when it sent any: then the
// server's answer is older than they are. A consumer that was created again may have other
// messages under the same numbers.
func (k *keyed) repeatLocked(p *puller, created time.Time) bool {
	s := &k.sources[p.index]
	same, lost := s.created.Equal(created), s.repeat
	s.created, s.repeat = created, false
	if !lost || !same {
		return false
	}
	sent := false
	for at, r := range k.recent.at {
		if at.source == p.index {
			sent = true
			_ = k.d.link.Publish(&wire.Out{Subject: r.reply, Data: r.body}) // else it is as before
		}
	}
	s.barrier.close(time.Now())
	return sent
}
