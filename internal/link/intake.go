package link

import (
	"context"
	"math"
	"time"

	"github.com/nats-io/nats.go"
)

// unsubscribeNow is an auto-unsubscribe limit that no server can parse (more
// than nine digits), which a server takes for "now", while the client takes it
// for "after so many messages", which never come, and goes on delivering what has
// arrived. It is the only way to end interest and keep what is on its way
// without Subscription.Drain, which needs the process-wide timer pool (see the
// package doc). A server that could parse it would go on sending until the
// final Unsubscribe: then a drain would lose what arrives in between; a test
// watches that. The largest number there is, since the client ends a subscription
// that has had more messages, and after a reconnect tells the server the rest.
const unsubscribeNow = math.MaxInt

// EndInterest makes the server stop sending to s and waits until everything it
// sent before has arrived in s. The subscription stays open for those. While
// disconnected it does not wait, since nothing comes.
func (l *Link) EndInterest(ctx context.Context, s *nats.Subscription, fallback time.Duration) error {
	if err := s.AutoUnsubscribe(unsubscribeNow); err != nil {
		return err
	}
	if !l.nc.IsConnected() {
		return nil
	}
	return l.Flush(ctx, fallback)
}
