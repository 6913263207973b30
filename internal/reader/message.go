package reader

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// The headers that the server adds to a message it sends so. It puts them after those
// that the message has, which may be of the same names: a republished message is like
// that.
const (
	headerStream   = "Nats-Stream"
	headerSubject  = "Nats-Subject"
	headerSequence = "Nats-Sequence"
	headerTime     = "Nats-Time-Stamp"
	headerPending  = "Nats-Num-Pending"
	headerLast     = "Nats-Last-Sequence"
)

var errNoMessage = errors.New("not a message of a stream")

// delivery returns the message that m brings, and the sequence of the one before in
// the same batch.
func delivery(m *nats.Msg) (d wire.Delivery, before uint64, err error) {
	h := m.Header
	if len(h[headerSequence]) == 0 {
		return d, 0, errNoMessage
	}
	s := &wire.Stored{Attempt: 1, Stream: cut(h, headerStream)}
	d = wire.Delivery{In: wire.In{Subject: cut(h, headerSubject), Data: m.Data}, Stored: s}
	if s.Sequence, err = strconv.ParseUint(cut(h, headerSequence), 10, 64); err != nil {
		return d, 0, errNoMessage
	}
	if s.Time, err = time.Parse(time.RFC3339Nano, cut(h, headerTime)); err != nil {
		return d, 0, errNoMessage
	}
	cut(h, headerPending)
	before, _ = strconv.ParseUint(cut(h, headerLast), 10, 64)
	if len(h) > 0 {
		d.Header = wire.Header(h)
	}
	return d, before, nil
}

// cut takes the last value of key off h.
func cut(h nats.Header, key string) string {
	values := h[key]
	if len(values) == 0 {
		return ""
	}
	last := values[len(values)-1]
	if len(values) == 1 {
		delete(h, key)
	} else {
		h[key] = slices.Clip(values[:len(values)-1])
	}
	return last
}

// number is the last value of key, 0 where it is none.
func number(h nats.Header, key string) uint64 {
	values := h[key]
	if len(values) == 0 {
		return 0
	}
	n, _ := strconv.ParseUint(values[len(values)-1], 10, 64)
	return n
}
