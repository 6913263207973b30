package outlet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// Find asks the stream, which stores subject, for a message with the ID. found is false if the
// stream does not know the ID, or has forgotten it.
//
// The server has no request for that. So Find sends a message with the ID and with a
// rollup of an unknown kind. The server looks for the ID first and then refuses the
// rollup. So the message is a duplicate, or it is not stored. The server would check an
// expected sequence before the ID, so that would not work.
func (o *Outlet) Find(ctx context.Context, stream, subject, id string) (ack Ack, found bool, err error) {
	if ack, found, err = o.duplicate(ctx, stream, id); found || err != nil {
		return ack, found, err
	}
	m := &Message{Out: wire.Out{Subject: subject}, ID: id}
	m.SetHeader(wire.HeaderNatsMsgID, id)
	m.SetHeader(wire.HeaderNatsRollup, "none")
	ack, err = o.store(ctx, m)
	if jserr.Is(err, jserr.RollupRefused) {
		return Ack{}, false, nil
	}
	return ack, err == nil, err
}

// Stored is a message of a stream without its payload.
type Stored struct {
	Sequence uint64
	Time     time.Time // when it was stored
	Header   wire.Header
}

// Query says which message of a stream to look up.
type Query struct {
	Sequence uint64 `json:"seq,omitempty"`          // the message with this sequence; with Next, the first one from there on
	Next     string `json:"next_by_subj,omitempty"` // on a subject that matches this
	Last     string `json:"last_by_subj,omitempty"` // the last message on a subject that matches this
}

// LookUp asks the leader of the stream for a message. Other replicas may be behind the
// leader. found is false if there is no such message.
func (o *Outlet) LookUp(ctx context.Context, stream string, q Query) (s Stored, found bool, err error) {
	ask, err := json.Marshal(q)
	if err != nil {
		return Stored{}, false, err
	}
	reply, err := o.requestAgain(ctx, &wire.Out{Subject: "$JS.API.STREAM.MSG.GET." + stream, Data: ask})
	if err != nil {
		return Stored{}, false, err
	}
	var r struct {
		Error   *jserr.Refusal `json:"error"`
		Message struct {
			Sequence uint64    `json:"seq"`
			Time     time.Time `json:"time"`
			Header   []byte    `json:"hdrs"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &r); err != nil {
		return Stored{}, false, fmt.Errorf("not a message of a stream: %w", err)
	}
	if r.Error != nil {
		if r.Error.Number == jserr.MessageNotFound {
			return Stored{}, false, nil
		}
		return Stored{}, false, r.Error
	}
	s.Sequence, s.Time = r.Message.Sequence, r.Message.Time
	if len(r.Message.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(r.Message.Header)
		if err != nil && !errors.Is(err, nats.ErrBadHeaderMsg) {
			return Stored{}, false, err
		}
		s.Header = wire.Header(h)
	}
	return s, true, nil
}

// requestAgain sends a request that changes nothing, again and again until there is an
// answer or ctx ends. That there is no leader at the moment is no answer.
func (o *Outlet) requestAgain(ctx context.Context, question *wire.Out) (*nats.Msg, error) {
	for {
		try, end := o.attemptContext(ctx)
		reply, err := o.link.Request(try, question)
		end()
		again := isLost(err) || isUnsent(err) || err == nil && saysUnavailable(reply)
		if !again || o.link.Conn().IsClosed() || ctx.Err() != nil {
			return reply, err
		}
		if ended := o.awaitNextAttempt(ctx); ended != nil {
			return reply, err
		}
	}
}

// saysUnavailable reports whether a server answers that there is no leader, or that JetStream
// starts.
func saysUnavailable(reply *nats.Msg) bool {
	var r struct {
		Error *jserr.Refusal `json:"error"`
	}
	return json.Unmarshal(reply.Data, &r) == nil && r.Error != nil && r.Error.Number == jserr.Unavailable
}

// maxMessageSize asks the server for the MaxMsgSize of a stream. Zero or less means that
// there is no limit.
func (o *Outlet) maxMessageSize(ctx context.Context, stream string) (int, error) {
	reply, err := o.requestAgain(ctx, &wire.Out{Subject: "$JS.API.STREAM.INFO." + stream})
	if err != nil {
		return 0, err
	}
	var r struct {
		Error  *jserr.Refusal `json:"error"`
		Config struct {
			MaxMsgSize int `json:"max_msg_size"`
		} `json:"config"`
	}
	if err := json.Unmarshal(reply.Data, &r); err != nil {
		return 0, fmt.Errorf("not the configuration of a stream: %w", err)
	}
	if r.Error != nil {
		return 0, r.Error
	}
	return r.Config.MaxMsgSize, nil
}
