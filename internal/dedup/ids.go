package dedup

import (
	"crypto/sha256"
	"time"
)

// Max is how many IDs a Collector keeps in all streams together. They take about 90 bytes each
// in memory, so at most 90 MiB. The server that had them until now needed more for each.
const Max = 1 << 20

// sum stands for an ID.
type sum [16]byte

func sumOf(id []byte) sum {
	whole := sha256.Sum256(id)
	return sum(whole[:len(sum{})])
}

// seen says where the message with an ID is.
type seen struct {
	sequence uint64
	at       int64 // when it was stored, in Unix nanoseconds
}

// stream has the IDs of one stream.
type stream struct {
	incarnation string
	window      time.Duration
	ids         map[sum]seen
}

// IDs are the IDs of all streams that moved. They do not change. Safe for concurrent use.
type IDs struct {
	streams map[string]*stream
	until   time.Time
}

// Known is a message whose ID is known.
type Known struct {
	Sequence    uint64
	Incarnation string // of the stream that has it
}

// Find looks for an ID that a stream still refuses as a duplicate.
func (s *IDs) Find(name, id string, now time.Time) (k Known, ok bool) {
	st := s.streams[name]
	if st == nil {
		return Known{}, false
	}
	found, ok := st.ids[sumOf([]byte(id))]
	if !ok || now.Sub(time.Unix(0, found.at)) >= st.window {
		return Known{}, false
	}
	return Known{Sequence: found.sequence, Incarnation: st.incarnation}, true
}

// Len returns how many IDs there are.
func (s *IDs) Len() (n int) {
	for _, st := range s.streams {
		n += len(st.ids)
	}
	return n
}

// Until returns when the last window is over. It is zero if there are no IDs.
func (s *IDs) Until() time.Time { return s.until }

// newIDs leaves out streams without IDs, and finds out when the last window is over.
func newIDs(streams map[string]*stream) *IDs {
	s := &IDs{streams: make(map[string]*stream)}
	for name, st := range streams {
		if len(st.ids) == 0 {
			continue
		}
		s.streams[name] = st
		newest := int64(0)
		for _, found := range st.ids {
			newest = max(newest, found.at)
		}
		if end := time.Unix(0, newest).Add(st.window); end.After(s.until) {
			s.until = end
		}
	}
	return s
}
