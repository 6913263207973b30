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

// A batch is asked for when the one before has arrived whole, so that two are here at
// most: the one that is read and the one that comes. Batches grow, since whoever
// looks at the first message only should not pay for all.
const (
	firstBatch   = 16
	largestBatch = 4096
	batchBytes   = 1 << 20 // the server stops a batch when it has sent more
)

// oneTry is how long the server may be silent before it is asked again.
const oneTry = 2 * time.Second

// inbox is where batches arrive, in the order in which they were sent.
type inbox struct {
	sub  *nats.Subscription
	msgs chan *nats.Msg
	open bool // a batch was asked for and has not ended
}

func (i *inbox) close() {
	if i.sub != nil {
		_ = i.sub.Unsubscribe() // fails only where the connection is gone
	}
	*i = inbox{}
}

const directGet = "$JS.API.DIRECT.GET."

// request is the body of a request for messages.
type request struct {
	Seq   uint64     `json:"seq,omitempty"`
	Since *time.Time `json:"start_time,omitempty"`
	Next  string     `json:"next_by_subj"`
	Batch int        `json:"batch,omitempty"`
	Bytes int        `json:"max_bytes,omitempty"`
}

// request is a request for what comes next.
func (r *Reader) request(batch, bytes int) ([]byte, error) {
	q := request{Seq: r.next, Next: r.cfg.Filter, Batch: batch, Bytes: bytes}
	if r.next == 0 {
		q.Since = &r.cfg.Since
	}
	return json.Marshal(q)
}

// ask asks for a batch.
func (r *Reader) ask() error {
	if r.inbox.sub == nil {
		nc := r.link.Conn()
		msgs := make(chan *nats.Msg, largestBatch+1) // and the end of the batch
		sub, err := nc.ChanSubscribe(nc.NewInbox(), msgs)
		if err != nil {
			return err
		}
		r.inbox = inbox{sub: sub, msgs: msgs}
	}
	body, err := r.request(r.batch, batchBytes)
	if err != nil {
		return err
	}
	if err := r.link.Publish(&wire.Out{Subject: directGet + r.cfg.Stream, Reply: r.inbox.sub.Subject, Data: body}); err != nil {
		return err
	}
	r.inbox.open = true
	r.batch = min(2*r.batch, largestBatch)
	return nil
}

var (
	errGap    = errors.New("a message of a batch was lost on its way")
	errSilent = errors.New("the server does not answer")
)

// fetchBatch takes in the batch that was asked for, or asks for it. more says that
// the stream has more.
func (r *Reader) fetchBatch(ctx context.Context) (more bool, err error) {
	for heard := time.Now(); ; {
		before := r.next
		if !r.inbox.open {
			err = r.ask()
		}
		switch {
		case err == nil:
			more, err = r.takeBatch(ctx)
		case passing(err):
			if err := r.Pause(ctx, betweenTries); err != nil {
				return false, err
			}
			err = errSilent // nobody was asked
		}
		if !errors.Is(err, errGap) && !errors.Is(err, errSilent) {
			return more, err
		}
		r.inbox.close() // what comes late must not be taken for the answer to the next request
		if r.next != before {
			return true, nil
		}
		if err := r.lost(ctx, heard); err != nil {
			return false, err
		}
	}
}

// lost returns why it is of no use to ask again, or nil.
func (r *Reader) lost(ctx context.Context, heard time.Time) error {
	if err := r.mayGoOn(ctx); err != nil {
		return err
	}
	nc := r.link.Conn()
	switch {
	case nc.IsClosed():
		return nats.ErrConnectionClosed
	case r.cfg.Patience == 0 || time.Since(heard) < r.cfg.Patience:
		return nil
	case !nc.IsConnected():
		return link.ErrDisconnected
	}
	return fmt.Errorf("%w (%w)", os.ErrDeadlineExceeded, errSilent)
}

// takeBatch takes in messages until the end of a batch. Each names the one before;
// so a gap is seen, as after a lost connection.
func (r *Reader) takeBatch(ctx context.Context) (more bool, err error) {
	var last uint64 // of this batch
	for {
		m, err := r.receive(ctx)
		if err != nil {
			return false, err
		}
		d, before, err := delivery(m)
		if err != nil {
			return r.endOfBatch(m, last)
		}
		if before != last {
			return false, errGap
		}
		last = d.Stored.Sequence
		r.add(d)
	}
}

func (r *Reader) endOfBatch(m *nats.Msg, last uint64) (more bool, err error) {
	r.inbox.open = false
	switch status := m.Header.Get("Status"); status {
	case "204":
		if number(m.Header, headerLast) != last {
			return false, errGap
		}
		return number(m.Header, headerPending) > 0, nil
	case "404", noResponders: // nothing there, or nobody; the leader knows
		return false, nil
	default:
		return false, fmt.Errorf("the server refuses to send messages: %s %s", status, m.Header.Get("Description"))
	}
}

const noResponders = "503"

// receive waits for one message on the inbox.
func (r *Reader) receive(ctx context.Context) (*nats.Msg, error) {
	select {
	case m := <-r.inbox.msgs:
		return m, nil
	default:
	}
	silence := time.NewTimer(oneTry)
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
