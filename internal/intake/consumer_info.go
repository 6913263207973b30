package intake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// Where a request for messages waits, the server answers it with a status when the consumer
// is deleted. A puller whose window is full has no request waiting. It only finds that
// nobody takes its next one, which has harmless causes too. So it asks.

// The server's error codes for a consumer and a stream that do not exist.
const (
	codeNoConsumer = 10014
	codeNoStream   = 10059
)

// infoType is the type of the reply to a question about a consumer.
const infoType = "io.nats.jetstream.api.v1.consumer_info_response"

// consumerInfo is what interests us of that reply, and of the one to a request for a
// stored message.
type consumerInfo struct {
	Type  string `json:"type"`
	Error struct {
		Code int `json:"err_code"`
	} `json:"error"`
	Delivered struct {
		Consumer uint64 `json:"consumer_seq"`
		Stream   uint64 `json:"stream_seq"`
	} `json:"delivered"` // the last
	Pending    uint64    `json:"num_pending"`
	AckPending int       `json:"num_ack_pending"`
	Created    time.Time `json:"created"`
	Floor      struct {
		Stream uint64 `json:"stream_seq"`
	} `json:"ack_floor"`

	Config struct {
		AckWait  time.Duration     `json:"ack_wait"`
		Metadata map[string]string `json:"metadata"`
	} `json:"config"`

	Message struct { // of the reply to a request for one
		Time time.Time `json:"time"`
	} `json:"message"`
}

func (i *consumerInfo) gone() bool {
	return i.Error.Code == codeNoConsumer || i.Error.Code == codeNoStream
}

// inquire asks about the consumer. The reply comes to the inbox, see onReply.
func (p *puller) inquire() error {
	return p.d.link.Publish(&wire.Out{Subject: p.Info, Reply: p.inbox()})
}

// onReply acts on the reply to inquire, and on the one to a request for a stored message.
func (p *puller) onReply(m *nats.Msg) {
	d := p.d
	var i consumerInfo
	err := json.Unmarshal(m.Data, &i)
	var begin []wire.Delivery
	var next *wire.Out
	d.mu.Lock()
	switch {
	case err != nil || i.Type != infoType && i.Type != getType:
		d.reportLocked(fmt.Errorf("a message on the inbox is not from the server: %.100q", m.Data))
	case i.gone():
		p.goneLocked()
	default:
		next = p.recordLagLocked(&i)
		if i.Type == infoType {
			p.foundLocked()
			p.followAckWaitLocked(&i)
			begin = d.order.answeredLocked(p, time.Now(), &i)
		}
	}
	d.mu.Unlock()
	if next != nil {
		_ = d.link.Publish(next) // what is not known is asked for again
	}
	for _, del := range begin {
		d.push(del)
	}
	p.pull()
	d.wakeMaintainer()
}

// ErrSourceGone is reported when the consumer of messages that come back does not exist.
// Its source's Recreate makes it again.
var ErrSourceGone = errors.New("the consumer of the retries was deleted on the server")

// askGone is when a source that was gone is asked for messages once more.
const askGone = time.Second

// goneLocked acts on the news that the consumer of p does not exist. That of the stream
// itself ends the intake: only the server knew what it had handled.
func (p *puller) goneLocked() {
	if p.index == 0 {
		p.d.endLocked(ErrConsumerDeleted)
		return
	}
	now := time.Now()
	p.beginLocked(now, now.Add(askGone))
	p.lastEnd = "" // nobody is there to confirm it
	if p.d.draining {
		return
	}
	if !errors.Is(p.stalled, ErrSourceGone) {
		p.stalled = ErrSourceGone
		p.d.reportLocked(ErrSourceGone)
	}
	if p.Recreate != nil {
		p.d.afterReportsLocked(func() { _ = p.Recreate(p.d.ctx) }) // it is called again while that is of no use
	}
}

// foundLocked acts on the news that the consumer of p exists.
func (p *puller) foundLocked() {
	if errors.Is(p.stalled, ErrSourceGone) {
		p.stalled = nil
	}
}

// state asks about the consumer and waits for the reply; ok is false where there is none.
func (p *puller) state(ctx context.Context) (i consumerInfo, ok bool) {
	reply, err := p.d.link.Request(ctx, &wire.Out{Subject: p.Info})
	if err != nil {
		return i, false
	}
	return i, json.Unmarshal(reply.Data, &i) == nil
}
