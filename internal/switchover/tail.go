package switchover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	maxAsked      = 256     // messages that are asked for at a time
	maxAskedBytes = 8 << 20 // of them, by the mean size of those in the stream
)

// tail does what rest does, message by message. The old server returns each as it was stored.
func (l *live) tail(ctx context.Context, info *jetstream.StreamInfo) error {
	end := info.State.LastSeq
	if l.last >= end {
		return nil
	}
	window := maxAsked
	if info.State.Msgs > 0 {
		mean := info.State.Bytes/info.State.Msgs + 1
		window = int(max(4, min(maxAsked, maxAskedBytes/mean)))
	}
	t := &tailReader{nc: l.s.Source, subject: "$JS.API.STREAM.MSG.GET." + l.name, inbox: l.s.Source.NewInbox(),
		replies: make(chan *nats.Msg, window), early: make(map[uint64]*nats.Msg), next: l.last + 1, asked: l.last}
	sub, err := t.nc.ChanSubscribe(t.inbox+".*", t.replies)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	for t.next <= end {
		if err := t.ask(min(end, t.next+uint64(window)-1)); err != nil {
			return err
		}
		m, err := t.read(ctx)
		if err != nil {
			return fmt.Errorf("message %d: %w", t.next-1, err)
		}
		if m == nil {
			continue // it was removed
		}
		h := &archive.Header{Name: m.Subject, Timestamp: m.Time.UnixNano(), Sequence: m.Sequence, HeaderSize: int64(len(m.Header)), PayloadSize: int64(len(m.Data))}
		if err := l.entry(h, append(m.Header, m.Data...)); err != nil {
			return err
		}
	}
	return nil
}

// tailReader reads messages one after the other, and asks for some ahead.
type tailReader struct {
	nc      *nats.Conn
	subject string
	inbox   string
	replies chan *nats.Msg
	early   map[uint64]*nats.Msg // replies that came before their turn
	next    uint64               // the sequence to read
	asked   uint64               // up to here
}

// storedMessage is a message as the server has it.
type storedMessage struct {
	Subject  string    `json:"subject"`
	Sequence uint64    `json:"seq"`
	Header   []byte    `json:"hdrs"`
	Data     []byte    `json:"data"`
	Time     time.Time `json:"time"`
}

// ask asks for the messages up to a sequence.
func (t *tailReader) ask(upTo uint64) error {
	for t.asked < upTo {
		t.asked++
		body := strconv.AppendUint([]byte(`{"seq":`), t.asked, 10)
		if err := t.nc.PublishRequest(t.subject, t.inbox+"."+strconv.FormatUint(t.asked, 10), append(body, '}')); err != nil {
			return err
		}
	}
	return nil
}

// read returns the next message, or nil if the stream does not have it.
func (t *tailReader) read(ctx context.Context) (*storedMessage, error) {
	reply, err := t.reply(ctx)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *storedMessage      `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("the reply of the server cannot be read: %w", err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return nil, answer.Error
	case answer.Message == nil:
		return nil, errors.New("the server returned no message")
	}
	return answer.Message, nil
}

// reply returns the reply for the next message. Replies may come in any order.
func (t *tailReader) reply(ctx context.Context) (*nats.Msg, error) {
	t.next++
	for {
		if m, here := t.early[t.next-1]; here {
			delete(t.early, t.next-1)
			return m, nil
		}
		select {
		case m := <-t.replies:
			n, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 10, 64)
			if err == nil {
				t.early[n] = m
			}
		case <-time.After(livePatience):
			return nil, errSilentSource
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
