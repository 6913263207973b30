package core

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
)

// A server that deletes its last stream on disk removes the empty directory after it has
// answered. A stream that is created at that moment has no place: CreateStream then tries
// again, so often and after such a pause.
const (
	createAttempts = 5
	createPause    = 10 * time.Millisecond
)

// CreateStream is CreateStream of the JetStream client. It repeats what the server could not
// store.
func (c *Core) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	for attempt := 1; ; attempt++ {
		st, err := c.JetStream.CreateStream(ctx, cfg)
		if attempt == createAttempts || !isStoreFailure(err) {
			return st, err
		}
		select {
		case <-time.After(createPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// isStoreFailure reports whether err means that the server could not make the directory of a
// stream.
func isStoreFailure(err error) bool {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && refused.ErrorCode == jserr.StreamCreateFailed && strings.Contains(refused.Description, "creating store")
}
