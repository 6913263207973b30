package consumer

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// Pause has the server send no messages of the durable, and none that come back for another
// attempt, until a time. The zero time ends a pause. op names the call in errors, which are
// *jserr.Error.
func (c *Consumer) Pause(ctx context.Context, op string, until time.Time) error {
	ctx, cancel := c.cfg.Core.WithTimeout(ctx)
	defer cancel()
	for _, stream := range []string{c.cfg.Stream.Name, sidestream.RetryStream(c.cfg.Stream.Name)} {
		if err := c.pauseOn(ctx, stream, until); err != nil {
			return jserr.Wrap(stream, op+" "+c.cfg.Durable, err)
		}
	}
	return nil
}

// pauseOn pauses the consumer of one stream.
func (c *Consumer) pauseOn(ctx context.Context, stream string, until time.Time) error {
	if until.IsZero() {
		if _, err := c.cfg.Core.JetStream.ResumeConsumer(ctx, stream, c.cfg.Durable); err != nil {
			return err
		}
		return c.wakeOn(stream)
	}
	_, err := c.cfg.Core.JetStream.PauseConsumer(ctx, stream, c.cfg.Durable, until)
	return err
}

// wakeOn has the server look for messages after a pause, by a request for messages that ends
// at once and whose answer nobody hears. Without that nats-server 2.15 looks when something
// else happens, up to a heartbeat later.
func (c *Consumer) wakeOn(stream string) error {
	l := c.cfg.Core.Link
	return l.Publish(&wire.Out{Subject: nextSubject(stream, c.cfg.Durable), Reply: l.Conn().NewInbox(), Data: []byte(`{"batch":1,"expires":1}`)})
}

// pausedUntil returns until when a consumer is paused, the zero time if it is not.
func pausedUntil(info *jetstream.ConsumerInfo) time.Time {
	if until := info.Config.PauseUntil; until != nil && until.After(time.Now()) {
		return *until
	}
	return time.Time{}
}
