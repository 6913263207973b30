package ownership

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// Owner is what a process has while it owns the durable. Its intake hands messages to Run,
// and settles through the other methods: it is an intake.Owner. See the package comment
// for its states. Safe for concurrent use.
type Owner struct {
	member     *Member
	epoch      uint64
	fence      *fence
	dispatcher *dispatcher
	intake     Intake
	started    chan struct{} // closed when the intake has started
}

// openOwner opens an owner, with its intake, for the lease of an epoch. last is the
// latest settle record. It may assign messages until leaseEnd.
func (m *Member) openOwner(epoch uint64, last settleRecord, leaseEnd time.Time) (*Owner, error) {
	o := &Owner{member: m, epoch: epoch, started: make(chan struct{}),
		dispatcher: newDispatcher(&m.cfg, m.store.subjects, m.workers, epoch, leaseEnd)}
	o.dispatcher.decide = func(d wire.Delivery, out settle.Outcome) settle.Outcome { return o.intake.Decide(d, out) }
	if err := o.dispatcher.open(); err != nil {
		o.dispatcher.close()
		return nil, err
	}
	confirm := func(ctx context.Context) error { return o.intake.Confirm(ctx) }
	o.fence = newFence(m.store, epoch, last, m.requestTimeout(), confirm, m.wake.signal)
	in, err := m.cfg.Open(o)
	if err != nil {
		o.close()
		return nil, err
	}
	o.intake = in
	return o, nil
}

// Run has a message handled, here or by another member, and waits for the outcome. The
// outcome is Returned if no handler began it, or if its member was lost.
func (o *Owner) Run(d wire.Delivery) settle.Outcome { return o.dispatcher.run(d) }

// Halt ends all calls of Run that wait for a free worker, and all later ones. Their
// outcome is Returned.
func (o *Owner) Halt() { o.dispatcher.halt(false) }

// SettledBefore reports whether an earlier owner has settled a message that was redelivered. If
// it was to become a dead letter, SettledBefore marks it as dead.
func (o *Owner) SettledBefore(d *wire.Delivery) bool {
	reason, settled := o.fence.settled(idOf(d))
	if reason != nil {
		d.Stored.Dead, d.Stored.Attempt = reason.Failure(), reason.Attempts
	}
	return settled
}

// Settle calls then once a settle record has the message: with true, it may be
// acknowledged now; with false, this process is not the owner any more. then must not
// block.
func (o *Owner) Settle(d *wire.Delivery, then func(ok bool)) {
	o.fence.settle(idOf(d), o.orRefused(d, then))
}

// MarkDead is Settle for a message that is to become a dead letter. It returns
// false, and does not call then, while the record has no space for its reason.
func (o *Owner) MarkDead(d *wire.Delivery, then func(ok bool)) (fits bool) {
	failure := d.Stored.Dead
	reason := &settle.DeadReason{Cause: o.member.cfg.Cause(failure), Error: sidestream.Shorten(failure.Error()), Attempts: d.Stored.Attempt}
	return o.fence.recordDeadLetter(idOf(d), reason, o.orRefused(d, then))
}

// orRefused is then, and reports an outcome that does not count.
func (o *Owner) orRefused(d *wire.Delivery, then func(ok bool)) func(error) {
	return func(err error) {
		if err != nil {
			o.member.refuse(d, err)
		}
		then(err == nil)
	}
}

// SettlementSent says that the acknowledgement of a message was sent.
func (o *Owner) SettlementSent(d *wire.Delivery) { o.fence.acknowledged(idOf(d)) }

// Forget drops what earlier owners settled, except what is here. All that the server may
// redeliver is here.
func (o *Owner) Forget(here func(source int, position uint64) bool) {
	o.fence.forgetMissing(func(id messageID) bool { return here(id.Source, id.Position) })
}

// Flush waits until the server has confirmed all that was settled. It returns ErrLost if
// this process is not the owner any more.
func (o *Owner) Flush(ctx context.Context) error { return o.fence.flush(ctx) }

// abandon ends the owner, whose lease is lost, without settling anything more.
func (o *Owner) abandon() {
	o.fence.lose()
	o.dispatcher.halt(true)
	o.intake.Abandon()
	o.close()
}

// close ends the dispatcher and the fence, and waits for the fence's goroutine.
func (o *Owner) close() {
	o.dispatcher.halt(true)
	o.dispatcher.close()
	o.fence.close()
}
