package consumer

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/jserr"
)

// undoTimeout is how long a failed Open may take beyond its context to remove the durable.
const undoTimeout = time.Second

// undo removes the durable and its consumer in S-retry if a failed Open created them: a durable
// that nobody consumes keeps all messages of a stream with interest retention. It leaves a
// durable that another process has begun to use. Empty side streams stay; they have no effect.
func (c *Consumer) undo() error {
	if !c.created {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	js, stream, durable := c.cfg.Core.JetStream, c.cfg.Stream.Name, c.cfg.Durable
	con, err := js.Consumer(ctx, stream, durable)
	if err == nil {
		if info := con.CachedInfo(); info.NumWaiting > 0 || info.Delivered.Consumer > 0 {
			return nil
		}
		err = js.DeleteConsumer(ctx, stream, durable)
	}
	if err == nil && c.side != nil {
		err = c.side.Undo(ctx)
	}
	if jserr.IsAbsent(err) {
		return nil
	}
	return jserr.Wrap(stream, "remove the durable "+durable+", which nobody consumes; remove it with DeleteConsumer", err)
}
