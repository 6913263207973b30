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

// The server tells those whose pulls wait that the consumer was deleted. A
// consumer whose window is full has none waiting; it only finds that nobody takes
// its next pull, which has harmless causes too. So it asks.

// The server's error codes for a consumer and a stream that do not exist.
const (
	codeNoConsumer = 10014
	codeNoStream   = 10059
)

// infoType is the type of the answer to a question about a consumer.
const infoType = "io.nats.jetstream.api.v1.consumer_info_response"

// info is what interests us of that answer.
type info struct {
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

	Message struct { // of the answer to a request for one
		Time time.Time `json:"time"`
	} `json:"message"`
}

func (i *info) gone() bool { return i.Error.Code == codeNoConsumer || i.Error.Code == codeNoStream }

// inquire asks whether the consumer is still there. The answer comes to the inbox.
func (s *puller) inquire() error {
	return s.d.link.Publish(&wire.Out{Subject: s.Info, Reply: s.sub.Subject})
}

// onReply heeds the answer to inquire.
func (s *puller) onReply(m *nats.Msg) {
	d := s.d
	var i info
	var begin []wire.Delivery
	err := json.Unmarshal(m.Data, &i)
	var next *wire.Out
	d.mu.Lock()
	switch {
	case err != nil || i.Type != infoType && i.Type != getType:
		d.reportLocked(fmt.Errorf("a message on the inbox is not from the server: %.100q", m.Data))
	case i.gone():
		s.goneLocked()
	default:
		next = s.recordLagLocked(&i)
		if i.Type == infoType {
			s.foundLocked()
			begin = s.answeredLocked(time.Now(), &i)
		}
	}
	d.mu.Unlock()
	if next != nil {
		_ = d.link.Publish(next) // what is not known is asked for again
	}
	for _, del := range begin {
		d.push(del)
	}
	s.pull()
	d.wakeMaintainer()
}

// ErrSourceGone is reported, again and again, while the consumer of messages that come back
// does not exist. Who is reported may make it anew.
var ErrSourceGone = errors.New("the consumer of the retries was deleted on the server")

// askGone is when a source that was gone is asked for messages once more.
const askGone = time.Second

// goneLocked heeds that the consumer of s does not exist. That of the stream itself
// ends the intake: what it had handled only the server knew.
func (s *puller) goneLocked() {
	if s.index == 0 {
		s.d.endLocked(ErrConsumerDeleted)
		return
	}
	now := time.Now()
	s.begin(now, now.Add(askGone))
	s.lastEnd = "" // nobody is there to confirm it
	if !s.d.draining {
		s.stalled = ErrSourceGone
		s.d.reportLocked(ErrSourceGone)
	}
}

// foundLocked heeds that the consumer of s exists.
func (s *puller) foundLocked() {
	if errors.Is(s.stalled, ErrSourceGone) {
		s.stalled = nil
	}
}

// state asks about the consumer and waits for the answer, nil where there is none.
func (s *puller) state(ctx context.Context) *info {
	reply, err := s.d.link.Request(ctx, &wire.Out{Subject: s.Info})
	if err != nil {
		return nil
	}
	var i info
	if json.Unmarshal(reply.Data, &i) != nil {
		return nil
	}
	return &i
}
