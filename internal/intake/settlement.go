package intake

import (
	"errors"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// The settlements of a message.
var (
	ackBody  = []byte("+ACK")
	nakBody  = []byte("-NAK 0s") // with a delay, since only then the server's store knows: after a restart it comes at once, too
	termBody = []byte("+TERM")
)

// errExited is the outcome of a handler call that ended its goroutine, unless Exited says
// what that means.
var errExited = settle.Outcome{Err: errors.New("the handler ended its goroutine")}

// run makes one attempt at a message, on a worker of the queue. The handler may end
// that goroutine; for a single message this is the one place that sees it.
func (d *Durable) run(del wire.Delivery) {
	if del.Stored.Dead != nil {
		d.writeDeadLetter(del)
		return
	}
	outcome, called, returned := errExited, true, false
	defer func() {
		if called {
			d.conclude(del, outcome)
		} else {
			d.skipped.add()
		}
	}()
	defer func() {
		if !returned {
			outcome = d.cfg.Exited(del)
		}
	}()
	outcome, called = d.attempt(del)
	returned = true
}

// conclude decides what becomes of del after an attempt, and does it. Nothing else
// decides that. A worker calls it.
func (d *Durable) conclude(del wire.Delivery, outcome settle.Outcome) {
	action, after := settle.Decide(d.cfg.Policy, del.Stored.Attempt, outcome)
	if action == settle.Retry && d.order.failed(del, outcome.Err) {
		action = settle.DeadLetter
	}
	switch action {
	case settle.Ack:
		d.finish(del, telemetry.OpAck, ackBody)
	case settle.Retry:
		if d.cfg.Retrying != nil {
			d.cfg.Retrying(del, outcome.Err)
		}
		del.Stored.Attempt++
		d.retry(del, after)
	case settle.Postpone:
		d.repeatAttempt(del, after)
	case settle.DeadLetter:
		del.Stored.Dead = outcome.Err
		d.writeDeadLetter(del)
	case settle.Return:
		d.repeatAttempt(del, recheckAfter) // should this process go on, it is not at once the same again
	}
}

// deadLetterRetry is when a dead letter that could not be written is tried again.
const deadLetterRetry = time.Second

// writeDeadLetter makes del a dead letter and terminates it. While that fails, or too many
// others wait for it, the message stays where it is. A worker calls it.
func (d *Durable) writeDeadLetter(del wire.Delivery) {
	recorded, full := d.authority.markDead(del)
	switch {
	case full, recorded && d.cfg.WriteDeadLetter(del) != nil:
		d.again(del, deadLetterRetry)
	case recorded:
		d.finish(del, telemetry.OpTerm, termBody)
	}
}

// finish settles del for good, and lets the next one of its key run.
func (d *Durable) finish(del wire.Delivery, name string, body []byte) {
	d.authority.settle(del, name, body)
	d.order.finished(del)
}

// settle ends this process's responsibility for del. It is traced as name.
func (d *Durable) settle(del wire.Delivery, name string, body []byte) {
	end := d.cfg.Settling(del, name)
	room, err := d.release(&del, body)
	end(err)
	if room {
		d.pullers[del.Stored.Source].pull()
	}
}

// release settles a held message with body and lets it go. A settlement that does not
// arrive does no harm: the message comes again. room says that there may be room for
// more.
func (d *Durable) release(del *wire.Delivery, body []byte) (room bool, err error) {
	at := positionOf(del)
	d.mu.Lock()
	h := d.held[at]
	if h.hold != del.Stored.HoldID { // its stream is gone, and another message has its place
		d.mu.Unlock()
		return false, nil
	}
	delete(d.held, at)
	p := d.pullers[at.source]
	p.letGo(h)
	room = p.hasRoom()
	if &body[0] != &nakBody[0] {
		p.lastEnd = h.reply
		d.order.settledLocked(at, h, body)
	}
	abandoned := d.abandoned
	d.mu.Unlock()
	if abandoned {
		return false, nil
	}
	return room, d.link.Publish(&wire.Out{Subject: h.reply, Data: body})
}
