package outlet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// Find asks the stream of subject for a message with the ID. found is false where the
// stream does not know the ID, or no longer.
//
// There is no request for that. It sends a message with the ID which the server
// refuses, for a rollup of a kind that does not exist, after it has looked for the
// ID: so it is a duplicate or not stored. An expectation would be refused before.
func (o *Outlet) Find(ctx context.Context, subject, id string) (ack Ack, found bool, err error) {
	m := &Message{Out: wire.Out{Subject: subject}, ID: id}
	m.SetHeader(wire.HeaderNatsMsgID, id)
	m.SetHeader(wire.HeaderNatsRollup, "none")
	ack, err = o.store(ctx, m)
	if hasCode(err, []int{jserr.RollupRefused}) {
		return Ack{}, false, nil
	}
	return ack, err == nil, err
}

// Stored is a message of a stream without its payload.
type Stored struct {
	Sequence uint64
	Header   wire.Header
}

// Query says which message of a stream to look up.
type Query struct {
	Sequence uint64 `json:"seq,omitempty"`          // the one at Sequence, or with Next the first from there on
	Next     string `json:"next_by_subj,omitempty"` // on a subject that this matches
	Last     string `json:"last_by_subj,omitempty"` // the last on a subject that this matches
}

// LookUp asks the leader of the stream, which others may be behind, for a message.
// found is false where there is none.
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
			Sequence uint64 `json:"seq"`
			Header   []byte `json:"hdrs"`
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
	s.Sequence = r.Message.Sequence
	if len(r.Message.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(r.Message.Header)
		if err != nil && !errors.Is(err, nats.ErrBadHeaderMsg) {
			return Stored{}, false, err
		}
		s.Header = wire.Header(h)
	}
	return s, true, nil
}

// ask sends a question that may be put again, and does so where the answer does not
// come.
func (o *Outlet) requestAgain(ctx context.Context, question *wire.Out) (*nats.Msg, error) {
	for {
		try, end := o.attemptContext(ctx)
		reply, err := o.link.Request(try, question)
		end()
		if !isLost(err) && !isUnsent(err) || o.link.Conn().IsClosed() || ctx.Err() != nil {
			return reply, err
		}
		if ended := o.awaitNextAttempt(ctx); ended != nil {
			return nil, err
		}
	}
}
