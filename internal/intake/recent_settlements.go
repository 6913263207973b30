package intake

import (
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// recent are the latest messages that were settled for good. What the server has not
// heard of that, because the connection or the server itself went down or because it
// had just sent the message again, it hears again: else the messages would be out for
// an AckWait, and those after them would wait.
type recent struct {
	ends map[position]recentEnd
	ring []position
	next int
}

type recentEnd struct {
	stored time.Time // of the message, since a stream that is made anew repeats its sequences
	reply  string
	body   []byte
}

// maxRecent is about what is settled in the 100 ms that a server may forget.
const maxRecent = 1024

func (r *recent) add(p position, e recentEnd) {
	if r.ends == nil {
		r.ends = make(map[position]recentEnd)
	}
	if _, there := r.ends[p]; !there {
		if len(r.ring) < maxRecent {
			r.ring = append(r.ring, p)
		} else {
			delete(r.ends, r.ring[r.next])
			r.ring[r.next] = p
			r.next = (r.next + 1) % maxRecent
		}
	}
	r.ends[p] = e
}

// has tells how a message that is sent again was settled.
func (r *recent) has(d *wire.Delivery) (body []byte, ok bool) {
	if d.Stored.Deliveries == 1 {
		return nil, false
	}
	e, ok := r.ends[positionOf(d)]
	return e.body, ok && e.stored.Equal(d.Stored.Time)
}

// settledBefore is whether del, which has come again, was settled here lately. Then
// that is said again. It would count as here while it is not out.
func (s *puller) settledBefore(del *wire.Delivery, reply string) bool {
	d := s.d
	if !d.keyed() {
		return false
	}
	d.mu.Lock()
	body, ok := d.recent.has(del)
	if ok {
		s.arrivedLocked(del, time.Now())
	}
	d.mu.Unlock()
	if ok {
		_ = d.link.Publish(&wire.Out{Subject: reply, Data: body}) // else it comes again
	}
	return ok
}

// repeatLocked says the latest settlements once more, when the connection was lost and
// the consumer is still the one it was; then its answer is too old to onStatus. A consumer
// that was made anew may have other messages under the same numbers.
func (s *puller) repeatLocked(created time.Time) bool {
	same, lost := s.created.Equal(created), s.repeat
	s.created, s.repeat = created, false
	if !lost || !same {
		return false
	}
	said := false
	for p, e := range s.d.recent.ends {
		if p.source == s.index {
			said = true
			_ = s.d.link.Publish(&wire.Out{Subject: e.reply, Data: e.body}) // else it is as before
		}
	}
	s.barrier.shut(time.Now())
	return said
}
