package dedup

import (
	"bytes"
	"maps"
	"math"
	"sync"
	"time"
)

// Collector gathers IDs. Safe for concurrent use.
type Collector struct {
	limit int

	mu      sync.Mutex
	streams map[string]*stream
	count   int
	dropped int64 // IDs stored before this are not kept, because there are too many; 0 for none
}

// NewCollector returns a collector that keeps at most limit IDs.
func NewCollector(limit int) *Collector {
	return &Collector{limit: limit, streams: make(map[string]*stream)}
}

// StreamCollector gathers the IDs of one stream. Safe for concurrent use.
type StreamCollector struct {
	c      *Collector
	stream *stream
	since  int64 // older messages are out of the window
}

// Stream begins a stream, of which nothing is kept yet. window is how long the stream knows
// an ID.
func (c *Collector) Stream(name, incarnation string, window time.Duration) *StreamCollector {
	st := &stream{incarnation: incarnation, window: window, ids: make(map[sum]seen)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if earlier := c.streams[name]; earlier != nil {
		c.count -= len(earlier.ids)
	}
	c.streams[name] = st
	return &StreamCollector{c: c, stream: st, since: time.Now().Add(-window).UnixNano()}
}

// Wants reports whether a message that was stored then, in Unix nanoseconds, is within the
// window.
func (s *StreamCollector) Wants(at int64) bool { return at > s.since }

// Add adds the message with a header, as the server stores it. Without an ID it does nothing.
func (s *StreamCollector) Add(header []byte, sequence uint64, at int64) {
	id := idOf(header)
	if len(id) == 0 || !s.Wants(at) {
		return
	}
	key := sumOf(id)
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if at < c.dropped {
		return
	}
	earlier, known := s.stream.ids[key]
	if known && earlier.sequence >= sequence {
		return // the last message with an ID counts
	}
	if !known {
		if c.makeRoomLocked(); at < c.dropped {
			return
		}
		c.count++
	}
	s.stream.ids[key] = seen{sequence, at}
}

// makeRoomLocked drops the older half of the time that is kept, until there is room for one
// more ID.
func (c *Collector) makeRoomLocked() {
	for c.count >= c.limit {
		oldest, newest := int64(math.MaxInt64), int64(math.MinInt64)
		for _, st := range c.streams {
			for _, found := range st.ids {
				oldest, newest = min(oldest, found.at), max(newest, found.at)
			}
		}
		c.dropped = oldest + (newest-oldest)/2 + 1
		c.count = 0
		for _, st := range c.streams {
			maps.DeleteFunc(st.ids, func(_ sum, found seen) bool { return found.at < c.dropped })
			c.count += len(st.ids)
		}
	}
}

// Finish returns what was gathered. dropped is zero, or IDs stored before it are missing,
// because there were too many. The collector must not be used any more.
func (c *Collector) Finish() (ids *IDs, dropped time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped > 0 {
		dropped = time.Unix(0, c.dropped)
	}
	return newIDs(c.streams), dropped
}

var idField = []byte("\r\nNats-Msg-Id:")

// idOf returns the ID in a stored header, as the server reads it. It is empty if there is
// none.
func idOf(header []byte) []byte {
	_, value, ok := bytes.Cut(header, idField)
	if !ok {
		return nil
	}
	value, _, ok = bytes.Cut(value, []byte("\r\n"))
	if !ok {
		return nil
	}
	return bytes.TrimLeft(value, " ")
}
