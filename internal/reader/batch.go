package reader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// The next batch is requested when the one before has arrived completely. So at most two are
// in memory: the one that is read and the one that arrives. Batches grow, so that a caller who
// needs only the first message does not fetch thousands.
const (
	firstBatch = 16
	maxBatch   = 4096
	batchBytes = 1 << 20 // the server ends a batch when it has sent more
)

// requestTimeout is how long a request waits for the next answer before it is repeated.
const requestTimeout = 2 * time.Second

// inbox is the subscription on which batches arrive.
type inbox struct {
	sub     *nats.Subscription
	msgs    chan *nats.Msg
	pending bool // a batch was requested and has not ended
}

// close ends the subscription. The next batch gets another one.
func (i *inbox) close() {
	if i.sub != nil {
		_ = i.sub.Unsubscribe() // fails only if the connection is closed
	}
	*i = inbox{}
}

// directGet is the prefix of the subjects for direct get, which a replica may answer.
const directGet = "$JS.API.DIRECT.GET."

// request is the body of a request for messages, by direct get or from the leader.
type request struct {
	Seq   uint64     `json:"seq,omitempty"`
	Since *time.Time `json:"start_time,omitempty"`
	Next  string     `json:"next_by_subj"`
	Batch int        `json:"batch,omitempty"`
	Bytes int        `json:"max_bytes,omitempty"`
}

// requestBody returns a request for the next messages.
func (r *Reader) requestBody(batch, bytes int) ([]byte, error) {
	q := request{Seq: r.next, Next: r.cfg.Filter, Batch: batch, Bytes: bytes}
	if r.next == 0 {
		q.Since = &r.cfg.Since
	}
	return json.Marshal(q)
}

// requestBatch requests the next batch.
func (r *Reader) requestBatch() error {
	body, err := r.requestBody(r.batch, batchBytes)
	if err != nil {
		return err
	}
	if err := r.send(body); err != nil {
		return err
	}
	r.batch = min(2*r.batch, maxBatch)
	return nil
}

// send sends a request by direct get, whose answers come to the inbox. It subscribes first if
// there is no inbox.
func (r *Reader) send(body []byte) error {
	if r.inbox.sub == nil {
		nc := r.link.Conn()
		msgs := make(chan *nats.Msg, maxBatch+1) // one more for the end of the batch
		sub, err := nc.ChanSubscribe(nc.NewInbox(), msgs)
		if err != nil {
			return err
		}
		r.inbox = inbox{sub: sub, msgs: msgs}
	}
	err := r.link.Publish(&wire.Out{Subject: directGet + r.cfg.Stream, Reply: r.inbox.sub.Subject, Data: body})
	r.inbox.pending = err == nil
	return err
}

var (
	errGap    = errors.New("a message of a batch was lost on its way")
	errSilent = errors.New("the server does not answer")
)

// fetchBatch receives the requested batch, and requests it first if necessary. It repeats the
// request when answers are lost. more is true if the stream has more messages.
func (r *Reader) fetchBatch(ctx context.Context) (more bool, err error) {
	for since := time.Now(); ; {
		before := r.next
		if !r.inbox.pending {
			err = r.requestBatch()
		}
		switch {
		case err == nil:
			more, err = r.receiveBatch(ctx)
		case isTemporary(err):
			if err := r.Pause(ctx, retryPause); err != nil {
				return false, err
			}
			err = errSilent // the request was not sent
		}
		if !errors.Is(err, errGap) && !errors.Is(err, errSilent) {
			return more, err
		}
		r.inbox.close() // late messages must not be taken for an answer to the next request
		if r.next != before {
			return true, nil
		}
		if err := r.checkRetry(ctx, since); err != nil {
			return false, err
		}
	}
}

// checkRetry returns an error if a request without an answer must not be repeated. since is
// the time of the first attempt.
func (r *Reader) checkRetry(ctx context.Context, since time.Time) error {
	if err := r.checkEnded(ctx); err != nil {
		return err
	}
	nc := r.link.Conn()
	switch {
	case nc.IsClosed():
		return nats.ErrConnectionClosed
	case r.cfg.Timeout == 0 || time.Since(since) < r.cfg.Timeout:
		return nil
	case !nc.IsConnected():
		return link.ErrDisconnected
	}
	return fmt.Errorf("%w (%w)", os.ErrDeadlineExceeded, errSilent)
}

// receiveBatch receives the messages of a batch. Each message names the sequence of the one
// before, so a lost message is noticed. more is as for fetchBatch. A server before 2.11 sends one
// message and no end: the leader of the stream may be older than the connected server.
func (r *Reader) receiveBatch(ctx context.Context) (more bool, err error) {
	var last uint64 // of this batch
	for {
		m, err := r.receive(ctx)
		if err != nil {
			return false, err
		}
		inBatch := len(m.Header[headerPending]) > 0
		d, previous, err := parseDelivery(m)
		if err != nil {
			return r.endOfBatch(m, last)
		}
		if previous != last {
			return false, errGap
		}
		last = d.Stored.Sequence
		r.add(d)
		if !inBatch {
			r.direct, r.inbox.pending = false, false // it answers each request with one message
			return false, nil
		}
	}
}

// endOfBatch handles a message that is not one of the stream: it ends the batch. last is the
// last sequence that was received.
func (r *Reader) endOfBatch(m *nats.Msg, last uint64) (more bool, err error) {
	r.inbox.pending = false
	switch status := m.Header.Get("Status"); status {
	case "204":
		if headerNumber(m.Header, headerLast) != last {
			return false, errGap
		}
		return headerNumber(m.Header, headerPending) > 0, nil
	case "404", statusNoResponders: // no message or no responder; ask the leader
		return false, nil
	default:
		return false, fmt.Errorf("the server refuses to send messages: %s %s", status, m.Header.Get("Description"))
	}
}

// statusNoResponders is the status that the server sends if nobody answers the request.
const statusNoResponders = "503"

// receive waits for one message on the inbox.
func (r *Reader) receive(ctx context.Context) (*nats.Msg, error) {
	select {
	case m := <-r.inbox.msgs:
		return m, nil
	default:
	}
	silence := time.NewTimer(requestTimeout)
	defer silence.Stop()
	select {
	case m := <-r.inbox.msgs:
		return m, nil
	case <-silence.C:
		return nil, errSilent
	case <-r.cfg.Ended:
		return nil, link.ErrShut
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
