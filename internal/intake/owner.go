package intake

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Owner is what makes sure that only the owner of a durable settles its messages,
// where several processes keep an order together. See package ownership.
type Owner interface {
	// Settled reports whether a message that comes was settled by an owner before. If
	// that was as a dead letter it sets what the message died of.
	SettledBefore(*wire.Delivery) bool
	// Settle has then called once this process may settle a message for good, or
	// never may. then must not block.
	Settle(d *wire.Delivery, then func(ok bool))
	// MarkDead is Settle for a message that is to become a dead letter. It returns false,
	// and calls nothing, while too many others are.
	MarkDead(d *wire.Delivery, then func(ok bool)) (room bool)
	// SettlementSent notes that the server was reported.
	SettlementSent(*wire.Delivery)
	// Forget drops what was settled by owners before, but for what is here.
	Forget(here func(source int, position uint64) bool)
	// Halt has the outcome of all that was not begun be Returned.
	Halt()
	// Flush waits until the server has been reported of all that was settled.
	Flush(context.Context) error
}

// settleAsOwner settles del once this process may do so for good. If it never may, the
// intake is about to be abandoned. It is for intakes with a claim: here del moves to the
// heap.
func (d *Durable) settleAsOwner(del wire.Delivery, name string, body []byte) {
	d.cfg.Owner.Settle(&del, func(ok bool) {
		if ok {
			d.settle(del, name, body)
			d.cfg.Owner.SettlementSent(&del)
		}
	})
}

// markDead waits until it is noted that del is a dead letter. full is that there is no
// room for that now; without either this process may not say so.
func (d *Durable) markDead(del wire.Delivery) (noted, full bool) {
	if d.cfg.Owner == nil {
		return true, false
	}
	answer := make(chan bool, 1)
	if !d.cfg.Owner.MarkDead(&del, func(ok bool) { answer <- ok }) {
		return false, true
	}
	return <-answer, false
}

// pullExpiry is how long the server may keep a request for messages. What it gives to
// an owner that stands still is lost for AckWait; so it must not do that for longer.
func (d *Durable) pullExpiry() time.Duration {
	if d.cfg.Owner == nil {
		return pullExpiry
	}
	return min(pullExpiry, d.cfg.AckWait)
}

// settledElsewhere settles once more, without a handler, what an owner before has settled
// when the server did not hear of that.
func (d *Durable) settledElsewhere(del *wire.Delivery) bool {
	if d.cfg.Owner == nil || !d.cfg.Owner.SettledBefore(del) || del.Stored.Dead != nil {
		return false
	}
	d.settle(*del, telemetry.OpAck, ackBody)
	d.cfg.Owner.SettlementSent(del)
	return true
}

// forgetSettledLocked drops what owners before have settled: all that may come again is here.
func (d *Durable) forgetSettledLocked() {
	if d.cfg.Owner != nil {
		d.cfg.Owner.Forget(func(source int, p uint64) bool {
			_, here := d.held[position{source, p}]
			return here
		})
	}
}

// halt has those returned that wait for somebody to handle them.
func (d *Durable) halt() {
	if d.cfg.Owner != nil {
		d.cfg.Owner.Halt()
	}
}

// flush waits until what was settled has been reported.
func (d *Durable) flush(ctx context.Context) error {
	if d.cfg.Owner == nil {
		return nil
	}
	return d.cfg.Owner.Flush(ctx)
}

// Abandon ends the intake at once: it takes nothing more and tells the server nothing
// about what it has. Handlers that run go on, see Wait.
func (d *Durable) Abandon() {
	d.mu.Lock()
	ends := !d.ends
	d.ends, d.draining, d.abandoned = true, true, true
	d.mu.Unlock()
	if !ends { // a drain does it
		return
	}
	d.notBegun()
	d.end()
	close(d.done)
}

// Wait waits until an abandoned intake runs no handler and has reported everything, or
// until ctx ends.
func (d *Durable) Wait(ctx context.Context) error {
	err := d.queue.Wait(ctx)
	d.awaitReported(ctx)
	return err
}

// Confirm waits until the server has processed the settlements that were sent before.
func (d *Durable) Confirm(ctx context.Context) error {
	for _, s := range d.pullers {
		if err := s.confirm(ctx); err != nil {
			return err
		}
	}
	return nil
}

// confirm does so for one consumer. It takes settlements in order, so repeating the last
// one as a request tells. Where its message is no more, nothing is left to confirm.
func (s *puller) confirm(ctx context.Context) error {
	s.d.mu.Lock()
	last := s.lastEnd
	s.d.mu.Unlock()
	if last == "" {
		return nil
	}
	err := s.confirmOne(ctx, last)
	if err != nil && !s.forgot(ctx, last) {
		return err
	}
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if s.lastEnd == last {
		s.lastEnd = ""
	}
	return nil
}

// confirmOne leaves half of the time for a question, since there may never be an answer.
func (s *puller) confirmOne(ctx context.Context, last string) error {
	if end, ok := ctx.Deadline(); ok {
		half, cancel := context.WithDeadline(ctx, end.Add(-time.Until(end)/2))
		defer cancel()
		ctx = half
	}
	_, err := s.d.link.Request(ctx, &wire.Out{Subject: last, Data: ackBody})
	return err
}

// forgot reports whether the consumer is gone, or is before the message that was settled
// at last: it was sent back, or made anew, and answers for no such message.
func (s *puller) forgot(ctx context.Context, last string) bool {
	var at wire.Stored
	i := s.state(ctx)
	return i != nil && (i.gone() || i.Type == infoType && at.ReadAck(last) == nil && i.Delivered.Stream < at.Sequence)
}
