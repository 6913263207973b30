package streamdef

import (
	"context"
	"encoding/json"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// Filter chooses the messages that Purge deletes: those that match all fields that are set.
type Filter struct {
	Subject string // a pattern; empty for all
	Before  uint64 // only lower sequences; 0 for all
	Keep    int    // not the latest so many; not together with Before
}

// Purge deletes messages of a stream and returns their number. It asks the server itself,
// since jetstream does not return the number. Its errors are *jserr.Error.
func Purge(ctx context.Context, c *core.Core, stream string, f Filter) (int, error) {
	if f.Before > 0 { // a sequence after the last one would make the server skip sequences
		st, err := c.JetStream.Stream(ctx, stream)
		if err != nil {
			return 0, jserr.Wrap(stream, "look up", err)
		}
		f.Before = min(f.Before, st.CachedInfo().State.LastSeq+1)
	}
	request, err := json.Marshal(jetstream.StreamPurgeRequest{Subject: f.Subject, Sequence: f.Before, Keep: uint64(f.Keep)})
	if err != nil {
		return 0, jserr.Wrap(stream, "purge", err)
	}
	reply, err := c.Link.Request(ctx, &wire.Out{Subject: "$JS.API.STREAM.PURGE." + stream, Data: request})
	if err != nil {
		return 0, jserr.Wrap(stream, "purge", err)
	}
	var answer struct {
		Purged int                 `json:"purged"`
		Error  *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return 0, jserr.Wrap(stream, "purge", err)
	}
	if answer.Error != nil {
		return 0, jserr.Wrap(stream, "purge", answer.Error)
	}
	return answer.Purged, nil
}
