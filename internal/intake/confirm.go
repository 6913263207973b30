package intake

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// repeatFor is how long the answer to a repeated acknowledgement is waited for before
// it is asked whether there can be one.
const repeatFor = 500 * time.Millisecond

// Confirm waits until the server has processed the settlements that were sent before.
// A drain calls it at its end, and an owner before it records that they were sent.
func (d *Durable) Confirm(ctx context.Context) error {
	for _, p := range d.pullers {
		if err := p.confirm(ctx); err != nil {
			return err
		}
	}
	return nil
}

// confirm does so for one consumer. That takes settlements in order, so repeating the
// last one as a request is enough. Nobody answers for a message that a consumer has not sent
// yet, because it was sent back, nor where the consumer is gone: then there is nothing to
// confirm.
func (p *puller) confirm(ctx context.Context) error {
	last := p.unconfirmed()
	if last == "" {
		return nil
	}
	for {
		try, cancel := context.WithTimeout(ctx, repeatFor)
		_, err := p.d.link.Request(try, &wire.Out{Subject: last, Data: ackBody})
		cancel()
		silent := errors.Is(err, context.DeadlineExceeded)
		switch {
		case err == nil:
			p.confirmed(last)
			return nil
		case ctx.Err() != nil || !silent && !errors.Is(err, nats.ErrNoResponders):
			return err
		case p.cannotAnswer(ctx, last):
			p.confirmed(last)
			return nil
		case !silent:
			return err
		}
	}
}

// unconfirmed is where the last message was settled that is not confirmed, or empty.
func (p *puller) unconfirmed() string {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if p.d.err != nil { // the consumer was deleted
		return ""
	}
	return p.lastEnd
}

func (p *puller) confirmed(last string) {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if p.lastEnd == last {
		p.lastEnd = ""
	}
}

// cannotAnswer reports whether the consumer is gone, or is before the message that was
// settled at last: it was sent back, or created again.
func (p *puller) cannotAnswer(ctx context.Context, last string) bool {
	var at wire.Stored
	i, ok := p.state(ctx)
	return ok && (i.gone() || i.Type == infoType && at.ReadAck(last) == nil && i.Delivered.Stream < at.Sequence)
}
