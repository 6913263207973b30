package reader

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// The headers that the server adds to a message of a batch. It adds them after the headers of
// the message. A republished message already has headers with the same names.
const (
	headerStream   = "Nats-Stream"
	headerSubject  = "Nats-Subject"
	headerSequence = "Nats-Sequence"
	headerTime     = "Nats-Time-Stamp"
	headerPending  = "Nats-Num-Pending"
	headerLast     = "Nats-Last-Sequence"
)

var errNoMessage = errors.New("not a message of a stream")

// parseDelivery returns the message of the stream in m, and the sequence of the message before
// it in the same batch.
func parseDelivery(m *nats.Msg) (d wire.Delivery, previous uint64, err error) {
	h := m.Header
	if len(h[headerSequence]) == 0 {
		return d, 0, errNoMessage
	}
	s := &wire.Stored{Attempt: 1, Stream: popHeader(h, headerStream)}
	d = wire.Delivery{In: wire.In{Subject: popHeader(h, headerSubject), Data: m.Data}, Stored: s}
	if s.Sequence, err = strconv.ParseUint(popHeader(h, headerSequence), 10, 64); err != nil {
		return d, 0, errNoMessage
	}
	if s.Time, err = time.Parse(time.RFC3339Nano, popHeader(h, headerTime)); err != nil {
		return d, 0, errNoMessage
	}
	popHeader(h, headerPending)
	previous, _ = strconv.ParseUint(popHeader(h, headerLast), 10, 64)
	if len(h) > 0 {
		d.Header = wire.Header(h)
	}
	return d, previous, nil
}

// popHeader removes the last value of key from h and returns it.
func popHeader(h nats.Header, key string) string {
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

// headerNumber returns the last value of key as a number, 0 if it is not one.
func headerNumber(h nats.Header, key string) uint64 {
	values := h[key]
	if len(values) == 0 {
		return 0
	}
	n, _ := strconv.ParseUint(values[len(values)-1], 10, 64)
	return n
}
