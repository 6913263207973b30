package intake

import (
	"time"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// Batch is how a Durable handles several messages at once.
type Batch struct {
	Size int           // messages at most
	Wait time.Duration // how long fewer of them wait for more

	// Run makes one attempt at each of the messages, which are in order, and sets as many
	// outcomes. It must not panic. It may end its goroutine; then it sets them all the
	// same. The Run for one message does as it does.
	Run func(ds []wire.Delivery, outcomes []settle.Outcome)
}

// atOnce is how many messages may run at once.
func (c *DurableConfig) atOnce() int { return c.Concurrency * max(c.Batch.Size, 1) }

// runBatch makes one attempt at each message, on a worker of the queue. What must run
// alone does so afterwards, as a batch of one.
func (d *Durable) runBatch(all []wire.Delivery) {
	var batch, alone []wire.Delivery
	for _, del := range all {
		switch {
		case del.Stored.Dead == nil && d.dropRemoved(del):
			d.skipped.add()
		case d.isAlone(del):
			alone = append(alone, del)
		case d.isolation.Enter(del, false):
			batch = append(batch, del)
		default:
			d.skipped.add()
		}
	}
	defer func() {
		for _, del := range alone { // the goroutine ends before their turn
			d.skipped.add()
			d.push(del)
		}
	}()
	if len(batch) > 0 {
		d.runTogether(batch)
	}
	for len(alone) > 0 {
		del := alone[0]
		alone = alone[1:]
		d.run(del)
	}
}

// runTogether makes one attempt at each message of a batch, and acts on the outcomes,
// also where the handler ends the goroutine.
func (d *Durable) runTogether(batch []wire.Delivery) {
	outcomes := make([]settle.Outcome, len(batch))
	for i := range outcomes {
		outcomes[i] = errExited
	}
	defer func() {
		for i := range batch {
			d.leaveIsolation(batch[i])
			d.conclude(batch[i], outcomes[i])
		}
	}()
	d.cfg.Batch.Run(batch, outcomes)
}

// isAlone is whether del cannot share a batch: it is dead, or may end the process.
func (d *Durable) isAlone(del wire.Delivery) bool {
	if d.cfg.Recovery != nil && del.Stored.Dead == nil {
		d.restore(del)
	}
	return del.Stored.Dead != nil || del.Stored.Isolation != wire.NotIsolated
}
