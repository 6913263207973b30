package intake

import (
	"sort"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/telemetry"
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

// batch is the messages that are handled at once, in order, with the line of each.
type batch struct {
	messages []wire.Delivery
	line     []int
	lines    int
}

// add adds a line.
func (b *batch) add(line []wire.Delivery) {
	for i := range line {
		b.messages = append(b.messages, line[i])
		b.line = append(b.line, b.lines)
	}
	b.lines++
}

// Len, Less and Swap implement sort.Interface: messages are in the order of the stream.
func (b *batch) Len() int { return len(b.messages) }
func (b *batch) Less(i, j int) bool {
	return b.messages[i].Stored.Sequence < b.messages[j].Stored.Sequence
}
func (b *batch) Swap(i, j int) {
	b.messages[i], b.messages[j] = b.messages[j], b.messages[i]
	b.line[i], b.line[j] = b.line[j], b.line[i]
}

// runBatch makes one attempt at each message, on a worker of the queue. What must run
// alone does so afterwards, as a batch of one. What cannot run with the one before it in its
// line goes back.
func (d *Durable) runBatch(all []wire.Delivery) {
	var together batch
	var alone []wire.Delivery
	for _, line := range d.order.lines(all) {
		removed, n := line[0].Stored.Dead == nil && d.isRemoved(line[0]), 1
		if !removed {
			n = d.runnable(line)
		}
		switch {
		case removed:
			d.skipped.add()
		case n == 0:
			n = 1
			alone = append(alone, line[0])
		case d.isolation.Enter(line[0], false):
			together.add(line[:n])
		default:
			n = 1
			d.skipped.add()
		}
		d.putBack(line[n:])
		d.skipped.addMany(len(line) - n)
		if removed {
			d.finish(line[0], telemetry.OpAck, ackBody)
		}
	}
	sort.Sort(&together)
	defer func() {
		for _, del := range alone { // the goroutine ends before their turn
			d.skipped.add()
			d.push(del)
		}
	}()
	if together.lines > 0 {
		d.runTogether(&together)
	}
	for len(alone) > 0 {
		del := alone[0]
		alone = alone[1:]
		d.run(del)
	}
}

// runTogether makes one attempt at each message of a batch, and acts on the outcomes,
// also where the handler ends the goroutine.
func (d *Durable) runTogether(b *batch) {
	outcomes := make([]settle.Outcome, len(b.messages))
	for i := range outcomes {
		outcomes[i] = errExited
	}
	defer func() {
		lines, results := make([][]wire.Delivery, b.lines), make([][]settle.Outcome, b.lines)
		for i, line := range b.line {
			lines[line] = append(lines[line], b.messages[i])
			results[line] = append(results[line], outcomes[i])
		}
		for i := range lines {
			d.leaveIsolation(lines[i][0])
			d.concludeLine(lines[i], results[i])
		}
	}()
	call := d.cfg.Batch.Run
	if d.queue.IsStopping() {
		call = d.returnAll
	}
	call(b.messages, outcomes)
}

// returnAll is instead of the Run of a Batch where no handler may be called any more.
func (d *Durable) returnAll(_ []wire.Delivery, outcomes []settle.Outcome) {
	for i := range outcomes {
		outcomes[i] = settle.Outcome{Returned: true}
	}
	d.skipped.addMany(len(outcomes))
}

// runnable is how many messages of a line may be handled at once, from its first one. None
// may if the first cannot share a batch. The others may if nothing is against it now and they
// were not tried before.
func (d *Durable) runnable(line []wire.Delivery) int {
	for i, del := range line {
		if i > 0 && (line[0].Stored.TriedBefore() || del.Stored.TriedBefore() || d.isRemoved(del)) || d.isAlone(del) || !d.mayRunNow(del) {
			return i
		}
	}
	return len(line)
}

// mayRunNow reports whether the order lets del run. What is against it is acted on when it runs
// alone.
func (d *Durable) mayRunNow(del wire.Delivery) bool {
	wait, barred := d.order.mayRun(del)
	return !wait && barred == nil
}

// isAlone is whether del cannot share a batch: it is dead, or may end the process.
func (d *Durable) isAlone(del wire.Delivery) bool {
	if d.cfg.Recovery != nil && del.Stored.Dead == nil {
		d.restore(del)
	}
	return del.Stored.Dead != nil || del.Stored.Isolation != wire.NotIsolated
}

// concludeLine does what is decided of messages that wait for each other and were handled at once.
// Those behind one that failed go back without an attempt, whatever their outcomes are: the
// handler may have skipped them. A worker calls it.
func (d *Durable) concludeLine(line []wire.Delivery, outcomes []settle.Outcome) {
	last := 0
	for last < len(line)-1 && outcomes[last].Err == nil && !outcomes[last].Returned {
		d.authority.settle(line[last], telemetry.OpAck, ackBody)
		last++
	}
	d.putBack(line[last+1:])
	d.conclude(line[last], outcomes[last])
}

// putBack has messages wait again behind the first of their line. What is known of their key may
// change until their turn comes.
func (d *Durable) putBack(line []wire.Delivery) {
	if len(line) == 0 {
		return
	}
	for i := range line {
		line[i].Stored.MayRun = false
	}
	d.order.putBack(line)
}
