package intake

import (
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// recent are the latest settlements. What the server did not get, because the
// connection or the server itself went down, it gets again: else the messages would be
// out for an AckWait, and those after them would wait. The zero value is empty.
type recent struct {
	ends []recentEnd
	next int
}

type recentEnd struct {
	source int
	reply  string
	body   []byte
}

// mostRecent is about what is settled in the 100 ms that a server may forget.
const mostRecent = 1024

func (r *recent) add(e recentEnd) {
	if len(r.ends) < mostRecent {
		r.ends = append(r.ends, e)
		return
	}
	r.ends[r.next] = e
	r.next = (r.next + 1) % mostRecent
}

// repeatLocked says the latest settlements once more, when the connection was lost and
// the consumer is still the one it was; then its answer is too old to heed. A consumer
// that was made anew may have other messages under the same numbers.
func (s *source) repeatLocked(created time.Time) bool {
	same, lost := s.created.Equal(created), s.repeat
	s.created, s.repeat = created, false
	if !lost || !same {
		return false
	}
	said := false
	for _, e := range s.d.recent.ends {
		if e.source == s.index {
			said = true
			_ = s.d.link.Publish(&wire.Out{Subject: e.reply, Data: e.body}) // else it is as before
		}
	}
	s.gate.shut(time.Now())
	return said
}
