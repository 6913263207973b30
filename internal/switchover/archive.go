package switchover

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server/archive"
)

// snapshotReader reads the chunks of a snapshot as they come.
type snapshotReader struct {
	ctx  context.Context
	c    *copier
	rest []byte // of the last chunk
}

// Read implements io.Reader.
func (r *snapshotReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		chunk, err := r.c.next(r.ctx)
		if err != nil {
			return 0, err
		}
		if chunk == nil {
			return 0, io.EOF
		}
		if err := r.c.taken(chunk); err != nil {
			return 0, err
		}
		r.rest = chunk.Data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// isEnd reports whether an entry is the mark at the end of an archive.
func isEnd(h *archive.Header) bool { return *h == archive.Header{} }

// readBody reads the body of an entry into buf, which grows if it must.
func readBody(from io.Reader, h *archive.Header, buf []byte) ([]byte, error) {
	size := int(h.HeaderSize + h.PayloadSize)
	buf = slices.Grow(buf[:0], size)[:size]
	_, err := io.ReadFull(from, buf)
	return buf, err
}

// consumerAtStart is the state of a consumer in an archive.
type consumerAtStart struct {
	config json.RawMessage
	state  consumerState
}

type sequences struct {
	Consumer uint64 `json:"consumer_seq"`
	Stream   uint64 `json:"stream_seq"`
}

// consumerState is where a consumer is. Pending and Redelivered are by stream sequence.
type consumerState struct {
	Delivered   sequences           `json:"delivered"`
	AckFloor    sequences           `json:"ack_floor"`
	Pending     map[uint64]*pending `json:"pending"`
	Redelivered map[uint64]uint64   `json:"redelivered"` // how often, not counting the first time
}

// pending is a delivery that is not settled.
type pending struct {
	Sequence  uint64 // of the delivery
	Timestamp int64  // when the server last heard of it, in nanoseconds
}

// consumerPrefix begins the names of entries that are consumers.
const consumerPrefix = "consumers/"

// noteConsumer enters a consumer into all, if the entry is one.
func noteConsumer(all map[string]consumerAtStart, h *archive.Header, body []byte) error {
	name, is := strings.CutPrefix(h.Name, consumerPrefix)
	if !is || h.Sequence != 0 {
		return nil
	}
	var c struct {
		Config json.RawMessage `json:"config"`
		State  consumerState   `json:"state"`
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return fmt.Errorf("consumer %s in the snapshot: %w", name, err)
	}
	all[name] = consumerAtStart{bytes.Clone(c.Config), c.State}
	return nil
}
