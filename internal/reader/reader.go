package reader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// Config is what a Reader reads.
type Config struct {
	Stream  string
	Filter  string        // the subjects; ">" for all
	From    uint64        // the first sequence; ignored if Since is set
	Since   time.Time     // the time of the first message
	Timeout time.Duration // how long the server may give no answer; 0: until the context ends

	Ended <-chan struct{} // closed to end all reading
}

// Reader reads a stream up to its end: the last sequence that the stream had when SetEnd was
// called. Not safe for concurrent use.
type Reader struct {
	cfg         Config
	link        *link.Link
	incarnation string // of the stream, at the first SetEnd
	direct      bool   // the stream allows direct get, and the server answers it with batches
	replicated  bool   // a replica may answer that is behind
	first       uint64 // the first sequence of the stream
	last        uint64 // the end

	next   uint64          // the next sequence to fetch; 0: the first one since cfg.Since
	ready  []wire.Delivery // fetched and not returned yet
	buffer []wire.Delivery // the memory of ready, for reuse
	inbox  inbox
	batch  int // size of the next batch
}

// New returns a Reader without an end. Call SetEnd before Next, and Close at last.
func New(l *link.Link, c Config) *Reader {
	r := &Reader{cfg: c, link: l, next: max(c.From, 1), batch: firstBatch}
	if !c.Since.IsZero() {
		r.next = 0
	}
	return r
}

// Close ends the subscription for batches.
func (r *Reader) Close() { r.inbox.close() }

// Next returns the next message. ok is false if there is none up to the end.
func (r *Reader) Next(ctx context.Context) (d wire.Delivery, ok bool, err error) {
	for {
		if err := r.checkEnded(ctx); err != nil {
			return wire.Delivery{}, false, err
		}
		if d, ok := r.pop(); ok {
			return d, true, nil
		}
		if len(r.ready) > 0 || r.next > r.last {
			return wire.Delivery{}, false, nil
		}
		if err := r.fill(ctx); err != nil {
			return wire.Delivery{}, false, err
		}
	}
}

// pop returns the first fetched message up to the end.
func (r *Reader) pop() (wire.Delivery, bool) {
	for len(r.ready) > 0 && r.ready[0].Stored.Sequence <= r.last {
		d := r.ready[0]
		r.ready[0] = wire.Delivery{} // its memory may be freed before that of its neighbours
		r.ready = r.ready[1:]
		if !d.Stored.Time.Before(r.cfg.Since) {
			return d, true
		}
	}
	return wire.Delivery{}, false
}

// fill fetches the next messages, in a batch if the stream allows that. Next calls it.
func (r *Reader) fill(ctx context.Context) error {
	r.ready = r.buffer[:0]
	if !r.direct {
		if r.next == 0 {
			if err := r.seekTime(ctx); err != nil {
				return err
			}
		}
		return r.fetchOne(ctx)
	}
	more, err := r.fetchBatch(ctx)
	switch {
	case err != nil:
		return err
	case more:
		if err := r.requestBatch(); !isTemporary(err) { // the next batch arrives while this one is read
			return err
		}
		return nil // the request is made again when this batch has been read
	case r.next > r.last:
		return nil
	}
	return r.fetchOne(ctx) // a replica that is behind may have answered; ask the leader
}

// add appends a fetched message.
func (r *Reader) add(d wire.Delivery) {
	r.ready = append(r.ready, d)
	r.buffer = r.ready
	r.next = d.Stored.Sequence + 1
}

// checkEnded returns an error if reading must end.
func (r *Reader) checkEnded(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case <-r.cfg.Ended:
		return link.ErrShut
	default:
		return nil
	}
}

// retryPause is the pause before a request is repeated.
const retryPause = 100 * time.Millisecond

// requestJSON sends a request to the API of the server and reads the answer into into.
func (r *Reader) requestJSON(ctx context.Context, subject string, body []byte, into any) error {
	m, err := r.requestReply(ctx, subject, body)
	if err != nil {
		return err
	}
	return parseJSON(m.Data, into)
}

// requestReply sends a request and repeats it until there is an answer.
func (r *Reader) requestReply(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	for since := time.Now(); ; {
		m, err := r.requestOnce(ctx, &wire.Out{Subject: subject, Data: body})
		if err == nil || !isTemporary(err) {
			return m, err
		}
		if why := r.checkRetry(ctx, since); why != nil {
			return nil, fmt.Errorf("%w: %w", why, err)
		}
		if err := r.Pause(ctx, retryPause); err != nil {
			return nil, err
		}
	}
}

// requestOnce sends a request once.
func (r *Reader) requestOnce(ctx context.Context, o *wire.Out) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return r.link.Request(ctx, o)
}

// isTemporary reports whether a repeated request may succeed after err.
func isTemporary(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, link.ErrDisconnected) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// Pause waits for d. It returns an error if reading must end.
func (r *Reader) Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return r.checkEnded(ctx)
	case <-r.cfg.Ended:
		return link.ErrShut
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// parseJSON reads an answer of the API of the server. It returns the error that the answer has,
// if it has one.
func parseJSON(data []byte, into any) error {
	var refused struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &refused); err != nil {
		return fmt.Errorf("not an answer of the server: %w", err)
	}
	if refused.Error != nil {
		return refused.Error
	}
	return json.Unmarshal(data, into)
}

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
