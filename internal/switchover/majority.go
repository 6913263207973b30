package switchover

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
)

// In a cluster the leader of a restore has the copy first. Then it sends the other replicas an entry of their
// log, which says what the copy has. If it is killed before a majority has that entry, they elect a leader of an
// empty stream. If it is killed before one of them knows that a majority has it, they elect a leader that cannot
// get the messages, and nobody can publish any more (ADR 27).

// awaitMajority waits until neither can happen: until a majority has stored two more entries, of which the second
// says that the first one counts. The entries remove a message that cannot exist, and so nothing. A stream that
// allows neither to delete nor to purge takes no such entry.
func (s *run) awaitMajority(ctx context.Context, info *jetstream.StreamInfo) error {
	subject, body := emptyRemoval(&info.Config)
	if s.report.Replicas == 1 || subject == "" {
		return nil
	}
	for range 2 {
		if err := s.awaitEntry(ctx, subject, body); err != nil {
			return fmt.Errorf("most replicas of stream %s have not confirmed the copy: %w", info.Config.Name, err)
		}
	}
	return nil
}

// emptyRemoval returns a request that removes nothing from a stream; an empty subject if it takes none.
func emptyRemoval(c *jetstream.StreamConfig) (subject string, body []byte) {
	switch {
	case c.Sealed, c.DenyDelete && c.DenyPurge:
		return "", nil
	case c.DenyDelete: // as buckets do
		return "$JS.API.STREAM.PURGE." + c.Name, []byte(`{"filter":"_omnibus.none"}`)
	}
	return "$JS.API.STREAM.MSG.DELETE." + c.Name, fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, never)
}

// awaitEntry makes a request that removes nothing again and again, until the leader says that it was done.
func (s *run) awaitEntry(ctx context.Context, subject string, body []byte) error {
	for began := time.Now(); ; {
		m, err := awaitAnswer(ctx, s.Target, subject, body)
		if err != nil {
			return err
		}
		err = readReply(m.Data, new(apiReply))
		if err == nil || jserr.Is(err, jserr.SequenceNotFound, jserr.MessageNotDeleted) {
			return nil
		}
		if pause(ctx, began) != nil {
			return err
		}
	}
}
