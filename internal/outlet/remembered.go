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

// ErrForgotten is returned, together with ErrUnknown, for a message whose answer was lost
// and whose stream may have forgotten its ID.
var ErrForgotten = errors.New("the server has restarted, and the stream has removed messages since the first attempt: if this message was one of them, the stream has forgotten its ID")

// begin records the start of an attempt on a connection. The first one counts.
func (a *attempts) begin(nc *nats.Conn, m *Message) {
	a.clustered = nc.ConnectedClusterName() != ""
	if a.server == "" && m.ID != "" {
		a.server, a.began = nc.ConnectedServerId(), time.Now()
	}
}

// mayBeForgotten reports whether the stream may have forgotten the ID of a message that
// an earlier attempt stored. A server keeps the IDs in memory. When it starts, it reads
// them from the messages that are still in the stream. So the ID of a removed message,
// such as a job that was handled, lasts until the server restarts. The server of a stream
// may restart unseen if it is not the one that the bus is connected to.
func (a *attempts) mayBeForgotten(nc *nats.Conn, m *Message) bool {
	if m.ID == "" || m.Stream == "" || !a.maybeStored {
		return false
	}
	hasStreams, _ := nc.ConnectedServerJetStream()
	return a.server != nc.ConnectedServerId() || nc.ConnectedClusterName() != "" || !hasStreams
}

// checkRemembered returns nil if m may be sent again: no earlier attempt has stored it, or
// the stream knows its ID. Otherwise the error is ErrForgotten, or says why nobody can tell.
func (o *Outlet) checkRemembered(ctx context.Context, m *Message, a *attempts) error {
	nc := o.link.Conn()
	if !a.mayBeForgotten(nc, m) {
		return nil
	}
	server := nc.ConnectedServerId()
	keeps, err := o.keepsSince(ctx, m.Stream, a.began)
	if err == nil && !keeps {
		err = o.checkFound(ctx, m)
	}
	if err != nil {
		return a.wrapUnknown(err)
	}
	a.server = server
	return nil
}

// checkFound returns ErrForgotten if the stream does not know the ID of m.
func (o *Outlet) checkFound(ctx context.Context, m *Message) error {
	_, found, err := o.Find(ctx, m.Stream, m.Subject, m.ID)
	if err == nil && !found {
		return ErrForgotten
	}
	return err
}

// streamState is what the server says of a stream.
type streamState struct {
	Error   *jserr.Refusal `json:"error"`
	Created time.Time      `json:"created"`
	Now     time.Time      `json:"ts"` // by the clock of the server
	State   struct {
		Messages uint64    `json:"messages"`
		First    time.Time `json:"first_ts"` // when the first message was stored that is there
		Last     time.Time `json:"last_ts"`  // when the last one was stored, there or not
		LastSeq  uint64    `json:"last_seq"`
		Deleted  int       `json:"num_deleted"` // between the first one and the last one
	} `json:"state"`
	Cluster struct {
		Replicas []json.RawMessage `json:"replicas"` // without the leader
	} `json:"cluster"`
}

// keepsSince reports whether the stream knows the ID of every message that it has stored
// since the local time began: there is none, all are still there, or other replicas know
// them.
func (o *Outlet) keepsSince(ctx context.Context, stream string, began time.Time) (bool, error) {
	reply, err := o.requestAgain(ctx, &wire.Out{Subject: "$JS.API.STREAM.INFO." + stream})
	if err != nil {
		return false, err
	}
	var s streamState
	if err := json.Unmarshal(reply.Data, &s); err != nil {
		return false, fmt.Errorf("not the state of a stream: %w", err)
	}
	if s.Error != nil {
		if s.Error.Number == jserr.StreamNotFound {
			return true, nil // the next attempt says so
		}
		return false, s.Error
	}
	return len(s.Cluster.Replicas) > 0 || s.keepsSince(s.Now.Add(-time.Since(began))), nil
}

// keepsSince reports whether all messages are there that were stored at since, by the clock
// of the server, and later.
func (s *streamState) keepsSince(since time.Time) bool {
	switch {
	case s.Now.IsZero() || !s.Created.Before(since): // the stream was created again
		return false
	case s.State.LastSeq == 0 || !s.State.Last.IsZero() && s.State.Last.Before(since):
		return true
	}
	return s.State.Messages > 0 && s.State.Deleted == 0 && s.State.First.Before(since)
}
