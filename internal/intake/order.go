package intake

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// order decides which of the messages that are here may run. Durable asks it; it has two
// implementations, unkeyed and keyed. Where a method is not marked Locked, Durable.mu is
// not held.
type order interface {
	// receiver returns the callback for the inbox of p.
	receiver(p *puller) nats.MsgHandler

	// admit looks at a message that has come and is not held yet. It returns true when the
	// message was settled here before, and was settled again at reply. It is called, as
	// arrive is, by nats.go's goroutine for p.
	admit(p *puller, del *wire.Delivery, reply string) (settled bool)
	// deliveredLocked records a delivery. again says that its message was here already.
	deliveredLocked(p *puller, del *wire.Delivery, now time.Time, again bool)
	// keptLocked has later messages wait behind one that came back and cannot be read, if it has
	// a key.
	keptLocked(why *UnreadableError)
	// arrive has a new message run, now or when its turn comes.
	arrive(del wire.Delivery)

	// resume has a message that waited for its next attempt run, now or when its turn
	// comes. The maintainer calls it.
	resume(del wire.Delivery)
	// mayRun is asked by a worker before the first handler call of del. wait says to ask
	// again later, barred is why the message will not be handled.
	mayRun(del wire.Delivery) (wait bool, barred error)
	// lines splits the messages of a batch into lines, each in order: those of a line are settled one
	// after another.
	lines(all []wire.Delivery) [][]wire.Delivery
	// putBack has messages of a line wait again behind its first one, which is not settled.
	putBack(ds []wire.Delivery)
	// failed records that del failed and is to be tried again.
	failed(del wire.Delivery, err error)
	// finished lets the next message run after del, which is settled for good.
	finished(del wire.Delivery)
	// mayDefer reports whether a message may be stored for a later time.
	mayDefer(s *wire.Stored) bool
	// settledLocked records a settlement for good, with body, of the message of h.
	settledLocked(at position, h hold, body []byte)

	// waitingLocked is how many messages of p wait for others, and do not count for the
	// window.
	waitingLocked(p *puller) int
	// creditLocked changes how many messages to ask for, in how many bytes.
	creditLocked(p *puller, messages, bytes int) (int, int)
	// wantsMoreLocked reports cheaply whether p is to ask for messages for which the window
	// has no room.
	wantsMoreLocked(p *puller) bool

	// startLocked is called before the first message of p, reconnectedLocked when the
	// connection was lost and is back.
	startLocked(p *puller, now time.Time)
	reconnectedLocked(p *puller, now time.Time)
	// answeredLocked takes the server's reply about the consumer of p. It returns the
	// messages that may run now.
	answeredLocked(p *puller, now time.Time, i *consumerInfo) []wire.Delivery

	// maintain is called by the maintainer, again at nextLocked at the latest, if that is
	// not zero.
	maintain(now time.Time)
	nextLocked() time.Time

	// backlog is how many messages wait for others, and their bytes.
	backlog() (msgs, bytes int)
	// storedLocked is how many messages of the stream wait in a store only.
	storedLocked() int
	// stalledLocked is why messages that are here cannot run, or nil.
	stalledLocked() error
	// stop returns the messages that wait for others. From now on none does.
	stop() []wire.Delivery
	// wait waits, after stop, for what is being stored.
	wait(ctx context.Context)
}

// newOrder returns the order that the config of d asks for.
func newOrder(d *Durable) order {
	if d.cfg.Key == nil {
		return &unkeyed{d}
	}
	return newKeyed(d)
}
