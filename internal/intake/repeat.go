package intake

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// repeatFor is how long the answer to a repeated acknowledgement is waited for before
// it is asked whether there can be one.
const repeatFor = 500 * time.Millisecond

// repeat sends the last acknowledgement again until it is answered. Nobody answers
// for a message that the consumer, which was sent back, has not sent yet: then all of
// them are of no account.
func (d *Durable) repeat(ctx context.Context, last string) error {
	for {
		try, cancel := context.WithTimeout(ctx, repeatFor)
		_, err := d.link.Request(try, &wire.Out{Subject: last, Data: ackBody})
		cancel()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if d.sentBack(ctx) {
			return nil
		}
	}
}

// sentBack reports whether the consumer of the last acknowledgement is before its
// message.
func (d *Durable) sentBack(ctx context.Context) bool {
	d.mu.Lock()
	at := d.lastAt
	d.mu.Unlock()
	reply, err := d.link.Request(ctx, &wire.Out{Subject: d.sources[at.source].Info})
	if err != nil {
		return false
	}
	var i info
	return json.Unmarshal(reply.Data, &i) == nil && i.Type == infoType && !i.gone() && i.Delivered.Stream < at.sequence
}
