package consumer

import (
	"context"

	"github.com/omnibus-go/bus/internal/permissions"
	"github.com/omnibus-go/bus/internal/wire"
)

// prove asks the server whether it accepts the messages that the library sends for the durable,
// and the subscriptions to those of other processes. The messages are for a stream that does not
// exist, so none of them is stored. The error is a *link.RefusedError. Open calls it before it
// changes anything.
func (c *Consumer) prove(ctx context.Context) error {
	l := c.cfg.Core.Link
	if !l.MayRefuse() || !l.Conn().IsConnected() { // messages would wait for the next connection
		return nil
	}
	const probe = ".probe"
	var subjects []string
	for _, tokens := range permissions.OfDurable(c.cfg.Stream.Name, c.cfg.Durable, c.shared.Load()) {
		subjects = append(subjects, tokens+probe)
	}
	err := l.Prove(ctx, func() error {
		for _, subject := range subjects {
			if err := l.Publish(&wire.Out{Subject: subject, Header: wire.Header{"Nats-Expected-Stream": {"-"}}}); err != nil {
				return err
			}
		}
		return nil
	}, subjects...)
	if err != nil || !c.shared.Load() {
		return err
	}
	return l.ProveSubscription(ctx, permissions.Crew+c.cfg.Stream.Name+"."+c.cfg.Durable+probe)
}

// Refused returns which message or subscription for the durable the server refuses now, as a
// *link.RefusedError. It returns nil while there is none.
func (c *Consumer) Refused() error {
	for _, tokens := range permissions.OfDurable(c.cfg.Stream.Name, c.cfg.Durable, c.shared.Load()) {
		if err := c.cfg.Core.Link.Denied(tokens); err != nil {
			return err
		}
	}
	return nil
}
