package intake

import (
	"context"
	"errors"
	"sync/atomic"
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
	if d.dropRemoved(del) {
		d.skipped.add()
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

// A message that must wait for others is looked at again after firstRecheck: the server may only have
// to process the settlement of the one before it. Each look asks the server, so each pause is four
// times the one before, up to maxRecheck.
const (
	firstRecheck = 5 * time.Millisecond
	maxRecheck   = 5 * time.Second
)

// recheckPause is how long a message waits that has been looked at n times.
func recheckPause(n int) time.Duration {
	return min(firstRecheck<<(2*min(n-1, 10)), maxRecheck)
}

// returnedPause is when a message is tried again whose handler call was cut off by the end of the
// process. Should that go on, it is not at once the same again.
const returnedPause = 100 * time.Millisecond

// skipped counts runs of the queue in which no handler was called.
type skipped struct{ begun, ended atomic.Int64 }

func (s *skipped) add() { s.addMany(1) }

func (s *skipped) addMany(n int) {
	s.begun.Add(int64(n))
	s.ended.Add(int64(n))
}

// attempt calls the handler of del, unless it must not be called, now or ever. Not
// now, called is false; then del waits here, or is held back. A worker calls it.
func (d *Durable) attempt(del wire.Delivery) (outcome settle.Outcome, called bool) {
	if d.cfg.Recovery == nil {
		return d.cfg.Run(del), true
	}
	d.restore(del)
	if dead := del.Stored.Dead; dead != nil {
		return settle.Outcome{Err: dead, Permanent: true}, true
	}
	switch wait, barred := d.order.mayRun(del); {
	case wait:
		d.again(del, recheckPause(del.Stored.Rechecks))
		return outcome, false
	case barred != nil:
		return neverTried(del.Stored, barred), true
	}
	if !d.isolation.Enter(del, del.Stored.Isolation == wire.Alone) {
		return outcome, false
	}
	defer d.leaveIsolation(del)
	if d.queue.IsStopping() { // what came before may have taken a while
		d.again(del, 0)
		return outcome, false
	}
	if del.Stored.Isolation == wire.NotIsolated {
		return d.call(del), true
	}
	return d.try(del)
}

// restore sets what is known of del, once.
func (d *Durable) restore(del wire.Delivery) {
	if !del.Stored.Restored {
		d.cfg.Recovery.Restore(del)
		del.Stored.Restored = true
	}
}

// try calls the handler of del, which may end the process.
func (d *Durable) try(del wire.Delivery) (outcome settle.Outcome, called bool) {
	dead, err := d.cfg.Recovery.MarkStarted(del)
	switch {
	case dead != nil:
		return neverTried(del.Stored, dead), true
	case err != nil:
		d.report(err)
		d.again(del, deadLetterRetry)
		return outcome, false
	}
	defer func() { // also where the handler ends the goroutine
		d.cfg.Recovery.MarkEnded(del)
		del.Stored.Isolation = wire.NotIsolated
	}()
	return d.call(del), true
}

// call calls the handler of del, with about the number of that call.
func (d *Durable) call(del wire.Delivery) settle.Outcome {
	del.Number = max(del.Number-d.skipped.begun.Load(), 1)
	return d.cfg.Run(del)
}

func (d *Durable) leaveIsolation(del wire.Delivery) { d.pushAll(d.isolation.Leave(del)) }

// neverTried is the outcome of a message whose handler will not be called (again).
func neverTried(s *wire.Stored, dead error) settle.Outcome {
	s.Attempt--
	return settle.Outcome{Err: dead, Permanent: true}
}

// Decide decides what becomes of del after an attempt, and sets that in the outcome. An
// owner calls it for the outcome of another process, to answer that with the decision; it
// does not block. The outcome is to be what Run returns.
func (d *Durable) Decide(del wire.Delivery, outcome settle.Outcome) settle.Outcome {
	decided := d.decide(del, outcome)
	outcome.Decided = &decided
	return outcome
}

// decide is the one place that decides what becomes of a message.
func (d *Durable) decide(del wire.Delivery, outcome settle.Outcome) settle.Decision {
	action, after := settle.Decide(d.cfg.Policy, del.Stored.Attempt, outcome)
	if action == settle.Retry || action == settle.Postpone {
		d.order.failed(del, outcome.Err)
	}
	return settle.Decision{Action: action, After: after}
}

// conclude does what is decided of del after an attempt. It reports a retry, unless that
// was decided before: then whoever ran the handler reports it. A worker calls it.
func (d *Durable) conclude(del wire.Delivery, outcome settle.Outcome) {
	var decided settle.Decision
	if outcome.Decided != nil {
		decided = *outcome.Decided
	} else if decided = d.decide(del, outcome); decided.Action == settle.Retry && d.cfg.Retrying != nil {
		d.cfg.Retrying(del, outcome.Err)
	}
	switch decided.Action {
	case settle.Ack:
		d.finish(del, telemetry.OpAck, ackBody)
	case settle.Retry:
		del.Stored.Attempt++
		del.Stored.Waited = true
		d.retry(del, decided.After)
	case settle.Postpone:
		del.Stored.Waited, del.Stored.Postponed = true, true
		d.repeatAttempt(del, decided.After)
	case settle.DeadLetter:
		del.Stored.Dead = outcome.Err
		d.writeDeadLetter(del)
	case settle.Return:
		d.repeatAttempt(del, returnedPause)
	}
}

// dropRemoved settles del without a handler call if its stream has removed it. A worker calls
// it.
func (d *Durable) dropRemoved(del wire.Delivery) bool {
	if !d.isRemoved(del) {
		return false
	}
	d.finish(del, telemetry.OpAck, ackBody)
	return true
}

// isRemoved reports whether the stream of del has removed it while it waited for its next
// attempt. What is redriven was removed long ago.
func (d *Durable) isRemoved(del wire.Delivery) bool {
	s := del.Stored
	if s.Removed {
		return true // it was behind another one of its key when that was found out and reported
	}
	if !s.Waited || s.DeadLetter > 0 || d.cfg.IsRemoved == nil {
		return false
	}
	s.Removed = d.cfg.IsRemoved(d.ctx, &del)
	s.Waited = false
	return s.Removed
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
	d.beginSettling()
	defer d.endSettling()
	reply, room := d.letGoLocked(del, body)
	d.mu.Unlock()
	if reply == "" {
		return false, nil
	}
	return room, d.link.Publish(&wire.Out{Subject: reply, Data: body})
}

// letGoLocked lets a held message go, and returns where to settle it with body. reply is empty if it is
// not to be settled: its stream is gone and another message has its place, or nothing is sent any more.
func (d *Durable) letGoLocked(del *wire.Delivery, body []byte) (reply string, room bool) {
	at := positionOf(del)
	h := d.held[at]
	if h.hold != del.Stored.HoldID {
		return "", false
	}
	delete(d.held, at)
	p := d.pullers[at.source]
	p.letGo(h)
	if &body[0] != &nakBody[0] {
		p.lastEnd = h.reply
		d.order.settledLocked(at, h, body)
	}
	if d.abandoned {
		return "", false
	}
	return h.reply, p.hasRoom()
}

// sole is the authority of a process that has the consumer for itself: it may settle
// everything.
type sole struct{ d *Durable }

func (s sole) settledBefore(*wire.Delivery) bool { return false }

func (s sole) settle(del wire.Delivery, name string, body []byte) { s.d.settle(del, name, body) }

func (s sole) markDead(wire.Delivery) (recorded, full bool) { return true, false }

func (s sole) pullExpiry() time.Duration { return pullExpiry }

func (s sole) allHereLocked() {}

func (s sole) halt() {}

func (s sole) flush(context.Context) error { return nil }
