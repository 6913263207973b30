package link

import (
	"context"
	"math"
	"time"

	"github.com/nats-io/nats.go"
)

// unsubscribeNow is an auto-unsubscribe limit that no server can parse, because it has more
// than nine digits. The server takes it for "now". The client takes it for "after so many
// messages" and goes on delivering what has arrived. It is the only way to end interest and
// keep the messages that are on their way without Subscription.Drain, which needs the timer
// pool of the process (see ADR 1). A server that could parse it would go on sending until the
// final Unsubscribe, and a drain would lose what arrives in between; a test watches that. It
// is the largest int, because the client ends a subscription that has had more messages, and
// after a reconnect tells the server the rest.
const unsubscribeNow = math.MaxInt

// EndInterest makes the server stop sending to s, and waits until everything it sent before
// has arrived in s. The subscription stays open for those messages. While the connection is
// down it does not wait, since nothing comes.
func (l *Link) EndInterest(ctx context.Context, s *nats.Subscription, fallback time.Duration) error {
	if err := s.AutoUnsubscribe(unsubscribeNow); err != nil {
		return err
	}
	if !l.nc.IsConnected() {
		return nil
	}
	return l.Flush(ctx, fallback)
}
