package intake

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// repeatFor is how long the answer to a repeated acknowledgement is waited for before
// it is asked whether there can be one.
const repeatFor = 500 * time.Millisecond

// repeatLast acknowledges what was settled last again until that is answered. Nobody
// answers for a message that the consumer, which was sent back, has not sent yet, nor
// where the consumer is gone: then all of them are of no account.
func (s *puller) repeatLast(ctx context.Context) error {
	s.d.mu.Lock()
	last, at := s.lastEnd, s.lastAt
	if s.index == 0 && s.d.err != nil { // it was deleted
		last = ""
	}
	s.d.mu.Unlock()
	if last == "" {
		return nil
	}
	for {
		try, cancel := context.WithTimeout(ctx, repeatFor)
		_, err := s.d.link.Request(try, &wire.Out{Subject: last, Data: ackBody})
		cancel()
		silent := errors.Is(err, context.DeadlineExceeded)
		switch {
		case ctx.Err() != nil || !silent && !errors.Is(err, nats.ErrNoResponders):
			return err
		case s.cannotAnswer(ctx, at):
			return nil
		case !silent:
			return err
		}
	}
}

// cannotAnswer reports whether the consumer is gone, or before a message.
func (s *puller) cannotAnswer(ctx context.Context, sequence uint64) bool {
	reply, err := s.d.link.Request(ctx, &wire.Out{Subject: s.Info})
	if err != nil {
		return false
	}
	var i info
	return json.Unmarshal(reply.Data, &i) == nil && (i.gone() || i.Type == infoType && i.Delivered.Stream < sequence)
}
