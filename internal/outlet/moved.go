package outlet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// AnswerFor has the outlet answer for the streams that moved to another server: messages with
// one of these IDs are not sent, because the stream has them already. The server does not know
// that. It goes on until Forget, and replaces an earlier call.
func (o *Outlet) AnswerFor(ids *dedup.IDs) { o.moved.Store(ids) }

// Forget ends AnswerFor. It returns false if that was called with others since.
func (o *Outlet) Forget(ids *dedup.IDs) bool { return o.moved.CompareAndSwap(ids, nil) }

// duplicate returns the acknowledgement of the message with an ID, if the stream had that
// when it moved and still refuses the ID as a duplicate. A stream that was deleted and created
// again since then does not, so the stream is asked.
func (o *Outlet) duplicate(ctx context.Context, stream, id string) (ack Ack, known bool, err error) {
	ids := o.moved.Load()
	if ids == nil || id == "" {
		return Ack{}, false, nil
	}
	k, known := ids.Find(stream, id, time.Now())
	if known {
		known, err = o.isIncarnation(ctx, stream, k.Incarnation)
	}
	if err != nil || !known {
		return Ack{}, false, err
	}
	return Ack{Stream: stream, Sequence: k.Sequence, Duplicate: true}, true, nil
}

// isIncarnation reports whether a stream is the one that moved, and not a later one with its
// name.
func (o *Outlet) isIncarnation(ctx context.Context, stream, incarnation string) (bool, error) {
	reply, err := o.requestAgain(ctx, &wire.Out{Subject: "$JS.API.STREAM.INFO." + stream})
	if err != nil {
		return false, err
	}
	var r struct {
		Error   *jserr.Refusal `json:"error"`
		Created time.Time      `json:"created"`
		Config  struct {
			Metadata map[string]string `json:"metadata"`
		} `json:"config"`
	}
	if err := json.Unmarshal(reply.Data, &r); err != nil {
		return false, fmt.Errorf("not the state of a stream: %w", err)
	}
	if r.Error != nil && r.Error.Number != jserr.StreamNotFound { // whoever sends finds out that it is missing
		return false, r.Error
	}
	return r.Error == nil && wire.Incarnation(r.Config.Metadata, r.Created) == incarnation, nil
}

// checkBatchIsNew refuses a batch with such an ID as the server does that knows it.
func (o *Outlet) checkBatchIsNew(ctx context.Context, ms []Message) error {
	for i := range ms {
		_, known, err := o.duplicate(ctx, ms[i].Stream, ms[i].ID)
		if err != nil {
			return err
		}
		if known {
			return &jserr.Refusal{Number: jserr.BatchDuplicate, Description: "the stream had the message ID when it moved to this server"}
		}
	}
	return nil
}
