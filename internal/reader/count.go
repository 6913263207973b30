package reader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrNoDirect is the error of Count for a stream that does not allow direct get, or a server
// before 2.11. To count its messages, read them.
var ErrNoDirect = errors.New("the server cannot count the messages of the stream")

// Count returns how many messages from a sequence on match the filter, also after the end. A
// replica may count them that is behind.
func (r *Reader) Count(ctx context.Context, from uint64) (uint64, error) {
	if !r.direct {
		return 0, ErrNoDirect
	}
	body, err := json.Marshal(request{Seq: from, Next: r.cfg.Filter, Batch: 1, Bytes: 1})
	if err != nil {
		return 0, err
	}
	for since := time.Now(); ; {
		n, err := r.countOnce(ctx, body)
		if err == nil {
			return n, nil
		}
		r.inbox.close() // late answers must not be taken for those to the next request
		if !isTemporary(err) && !errors.Is(err, errSilent) && !errors.Is(err, errGap) {
			return 0, err
		}
		if why := r.checkRetry(ctx, since); why != nil {
			return 0, fmt.Errorf("%w: %w", why, err)
		}
		if err := r.Pause(ctx, retryPause); err != nil {
			return 0, err
		}
	}
}

// countOnce requests a batch of one message. The end of the batch says how many more there
// are. The message itself says so too, but nats-server 2.11 counts it there.
func (r *Reader) countOnce(ctx context.Context, body []byte) (uint64, error) {
	if r.inbox.pending {
		r.inbox.close()
	}
	if err := r.send(body); err != nil {
		return 0, err
	}
	for got := uint64(0); ; got++ {
		m, err := r.receive(ctx)
		if err != nil {
			return 0, err
		}
		switch status := m.Header.Get("Status"); {
		case len(m.Header[headerSequence]) > 0 && len(m.Header[headerPending]) == 0:
			r.direct = false // the leader of the stream is older than the connected server
			return 0, ErrNoDirect
		case len(m.Header[headerSequence]) > 0:
		case status == "204" && got == 1:
			r.inbox.pending = false
			return headerNumber(m.Header, headerPending) + 1, nil
		case status == "204":
			return 0, errGap
		case status == "404":
			r.inbox.pending = false
			return 0, nil
		case status == statusNoResponders:
			return 0, nats.ErrNoResponders
		default:
			return 0, fmt.Errorf("the server refuses to count: %s %s", status, m.Header.Get("Description"))
		}
	}
}

// countToEnd counts the matching messages from a sequence up to the end. It subtracts the
// messages after the end from all. Messages may be stored between the two counts, so the
// result is a range. *afterEnd is the latest count of messages after the end.
func (r *Reader) countToEnd(ctx context.Context, from uint64, afterEnd *uint64) (atLeast, atMost uint64, err error) {
	all, err := r.Count(ctx, from)
	if err != nil {
		return 0, 0, err
	}
	atMost = all - min(*afterEnd, all)
	*afterEnd, err = r.Count(ctx, r.last+1)
	return all - min(*afterEnd, all), atMost, err
}
