package consumer

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/jserr"
)

// undoTimeout is how long a failed Open may take beyond its context to undo what it did.
const undoTimeout = time.Second

// undo leaves the durable as it was before a failed Open. A durable that Open changed becomes
// what it was. One that Open created is deleted, with its consumer in S-retry: a durable that
// nobody consumes keeps all messages of a stream with interest retention. Empty side streams
// stay; they have no effect.
func (c *Consumer) undo() error {
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	var err error
	switch did, durable := c.did, c.cfg.Durable; {
	case did.created != "":
		err = jserr.Wrap(c.cfg.Stream.Name, "delete "+durable+", which nobody consumes", c.uncreate(ctx))
	case did.before != nil:
		_, err = update(ctx, &c.cfg, *did.before)
	}
	if jserr.IsAbsent(err) {
		return nil
	}
	return err
}

// uncreate deletes the durable. It leaves one that another call created, and one that another
// process has begun to use. The server cannot delete on a condition: a process that begins within
// the moment between the look and the deletion finds the durable deleted.
func (c *Consumer) uncreate(ctx context.Context) error {
	js, stream, durable := c.cfg.Core.JetStream, c.cfg.Stream.Name, c.cfg.Durable
	con, err := js.Consumer(ctx, stream, durable)
	if err != nil {
		return err
	}
	if info := con.CachedInfo(); info.Config.Metadata[createdKey] != c.did.created || info.NumWaiting > 0 || info.Delivered.Consumer > 0 {
		return nil
	}
	if err := js.DeleteConsumer(ctx, stream, durable); err != nil || c.side == nil {
		return err
	}
	return c.side.Undo(ctx)
}
