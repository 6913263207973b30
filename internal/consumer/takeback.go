package consumer

import (
	"context"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// A process that was killed leaves messages that the server regards as being handled. The
// server redelivers them after AckWait. If no other process can reach the server, the process
// that starts it again knows better: whoever had these messages is dead. So the first consumer
// of each durable asks for all of them at once. It returns them for the dead process. The
// server counts that as one more delivery, as it would after AckWait, so package recovery
// still sees which messages may have ended the process.

// restart is what happened to one durable since the server started.
type restart struct {
	mu        sync.Mutex
	takenBack bool
}

// maxTakenBack is how many sequences of a stream takeBack goes through. If a message has been
// unacknowledged for longer than that, the server redelivers what is left after AckWait.
const maxTakenBack = 1 << 20

// takeBackChunk is how many of them are sent before the server has confirmed the last one.
const takeBackChunk = 4096

// takeBack has the server redeliver at once what an earlier process held. It does nothing if
// another process may hold messages, or if this one has taken messages of the durable already.
// Open calls it before the consumer takes messages.
func (c *Consumer) takeBack(ctx context.Context) error {
	if !c.cfg.Core.Alone.Load() || c.cfg.Core.InMemory.Load() {
		return nil
	}
	r := c.cfg.Holders.restartOf(c.name())
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.takenBack {
		return nil
	}
	for _, stream := range []string{sidestream.RetryStream(c.cfg.Stream.Name), c.cfg.Stream.Name} {
		con, err := c.cfg.Core.JetStream.Consumer(ctx, stream, c.cfg.Durable)
		if err == nil {
			err = c.returnAll(ctx, con.CachedInfo())
		}
		if err != nil && !jserr.IsAbsent(err) { // Consume or the intake finds that out
			return jserr.Wrap(stream, "consume", err)
		}
	}
	r.takenBack = true
	return nil
}

// returnAll returns the unacknowledged messages in the order of the stream. They lie between
// the acknowledgement floor and the last delivery. The server ignores what it says of others.
func (c *Consumer) returnAll(ctx context.Context, info *jetstream.ConsumerInfo) error {
	if info.NumAckPending == 0 || info.Delivered.Last != nil { // the time of a delivery does not outlive the server
		return nil
	}
	first, last := info.AckFloor.Stream+1, info.Delivered.Stream
	last = min(last, first+maxTakenBack-1)
	for sequence := first; sequence <= last; sequence++ {
		nak := &wire.Out{Subject: ackSubject(info, sequence), Data: []byte("-NAK")}
		if sequence < last && (sequence-first+1)%takeBackChunk != 0 {
			if err := c.cfg.Core.Link.Publish(nak); err != nil {
				return err
			}
			continue
		}
		if _, err := c.cfg.Core.Link.Request(ctx, nak); err != nil {
			return err
		}
	}
	return nil
}

// ackSubject is where the server takes what becomes of a message. It finds the message by its
// sequence in the stream. The number of the delivery must lie above the acknowledgement floor.
func ackSubject(info *jetstream.ConsumerInfo, sequence uint64) string {
	return fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.0.0", info.Stream, info.Name, sequence, info.Delivered.Consumer)
}
