package intake

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Owner makes sure that only the owner of a durable settles its messages, where several
// processes keep an order together. See package ownership.
type Owner interface {
	// SettledBefore reports whether a message that comes was settled by an owner before.
	// If that was as a dead letter it sets the error that the message failed with.
	SettledBefore(*wire.Delivery) bool
	// Settle has then called once this process may settle a message for good, or
	// never may. then must not block.
	Settle(d *wire.Delivery, then func(ok bool))
	// MarkDead is Settle for a message that is to become a dead letter. It returns false,
	// and calls nothing, while too many others are.
	MarkDead(d *wire.Delivery, then func(ok bool)) (room bool)
	// SettlementSent records that the settlement was sent to the server.
	SettlementSent(*wire.Delivery)
	// Forget drops what was settled by owners before, except for what is here.
	Forget(here func(source int, position uint64) bool)
	// Halt has the outcome of every call that was not begun be Returned.
	Halt()
	// Flush waits until every settlement has been sent to the server.
	Flush(context.Context) error
}

// authority decides who may settle a message for good. It has two implementations, sole
// and owned.
type authority interface {
	// settledBefore settles once more, without a handler, a message that has come and that
	// an owner before has settled when the server did not hear of that.
	settledBefore(del *wire.Delivery) bool
	// settle settles del for good.
	settle(del wire.Delivery, name string, body []byte)
	// markDead waits until it is recorded that del is a dead letter. full is that there is
	// no room for that now; without either this process may not write one.
	markDead(del wire.Delivery) (recorded, full bool)
	// pullExpiry is how long the server may keep a request for messages.
	pullExpiry() time.Duration
	// allHereLocked is called when all messages that may come again are here.
	allHereLocked()
	// halt returns what waits for a worker anywhere; flush waits until what was settled is
	// sent. Both belong to a drain.
	halt()
	flush(context.Context) error
}

// newAuthority returns the authority that the config of d asks for.
func newAuthority(d *Durable) authority {
	if d.cfg.Owner == nil {
		return sole{d}
	}
	return &owned{d, d.cfg.Owner}
}

// owned is the authority of a process that is the owner for now: it asks before it
// settles.
type owned struct {
	d     *Durable
	owner Owner
}

func (o *owned) settledBefore(del *wire.Delivery) bool {
	if !o.owner.SettledBefore(del) || del.Stored.Dead != nil {
		return false
	}
	o.d.settle(*del, telemetry.OpAck, ackBody)
	o.owner.SettlementSent(del)
	return true
}

// settle settles del once this process may do so. If it never may, the intake is about
// to be abandoned.
func (o *owned) settle(del wire.Delivery, name string, body []byte) {
	o.owner.Settle(&del, func(ok bool) {
		if ok {
			o.d.settle(del, name, body)
			o.owner.SettlementSent(&del)
		}
	})
}

func (o *owned) markDead(del wire.Delivery) (recorded, full bool) {
	answer := make(chan bool, 1)
	if !o.owner.MarkDead(&del, func(ok bool) { answer <- ok }) {
		return false, true
	}
	return <-answer, false
}

// pullExpiry is at most AckWait: what the server gives to an owner that stands still is
// lost for AckWait, so it must not do that for longer.
func (o *owned) pullExpiry() time.Duration { return min(pullExpiry, o.d.AckWait()) }

func (o *owned) allHereLocked() {
	o.owner.Forget(func(source int, sequence uint64) bool {
		_, here := o.d.held[position{source, sequence}]
		return here
	})
}

func (o *owned) halt() { o.owner.Halt() }

func (o *owned) flush(ctx context.Context) error { return o.owner.Flush(ctx) }
