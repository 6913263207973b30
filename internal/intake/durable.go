package intake

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// DurableConfig describes how one process takes part in a durable consumer. Its
// functions are called by several goroutines at once and must not panic.
type DurableConfig struct {
	Source               // of the stream itself
	More        []Source // of messages that were deferred and come back, if any
	Concurrency int
	Window      int           // messages of a source to begin with; it follows what the handlers do
	AckWait     time.Duration // the consumers' at the start, to keep messages alive within it
	Policy      settle.Policy
	Timeout     time.Duration

	// Key returns the key of a message; messages of the same key keep their order. A
	// message with an empty key runs beside them. An error means that the message is not
	// handled. It is called by nats.go's goroutines. Nil where no order is kept.
	Key func(*wire.Delivery) (string, error)
	// Followers stores messages with a key that wait behind a failing one and do not fit
	// here; they come back by the last of More. Nil: they wait here, and nothing more comes
	// while they fill MaxHeld.
	Followers Followers

	Recovery Recovery // nil for none

	Interval time.Duration                      // between the starts of two handler calls; 0 for none
	Run      func(wire.Delivery) settle.Outcome // one handler call. It may end its goroutine
	Exited   func(wire.Delivery) settle.Outcome // the outcome of a call that did; nil where none does
	Batch    Batch                              // instead of Run, if it has a Run of its own

	// IsRemoved reports whether the stream has removed a message that waited for its next
	// attempt. Then the message is not handled again. Nil: no message is looked up.
	IsRemoved func(ctx context.Context, d *wire.Delivery) bool

	Retrying func(d wire.Delivery, err error)                     // d failed here with err and will be tried again; nil for none
	Settling func(d wire.Delivery, name string) (end func(error)) // traces a settlement
	Report   func(err error)                                      // what is wrong: no messages come, a key is stuck. The last one is ErrConsumerDeleted

	// WriteDeadLetter stores a message that will not be handled. It is called again, after
	// a while, until it returns nil; then the message is terminated. Nil where Run asks for
	// no such thing.
	WriteDeadLetter func(wire.Delivery) error

	// Owner is asked before anything is settled for good, where several processes keep
	// an order together. Nil where this process has the consumer for itself. With one
	// nothing is deferred.
	Owner Owner

	// Stopping is closed when no handler call may begin any more, until Drain returns what is
	// here. Nil: never.
	Stopping <-chan struct{}

	// DeferRetry stores a message that is to be tried again at a later time, so that it
	// need not wait here; it comes back by another source. Where it fails or is nil
	// the message waits here.
	DeferRetry func(ctx context.Context, d wire.Delivery, at time.Time) error
}

// Recovery is what outlives this process of the messages that it did not finish. It is
// called by workers, several at once, and may ask the server. What it is to set lies in a
// message's Stored, which is shared.
type Recovery interface {
	// Restore sets what is known of a message that has not run here yet: the attempts
	// that failed elsewhere, and how it must run, or why it will not.
	Restore(d wire.Delivery)

	// MayRun is asked about a message with a key before it runs. wait means that
	// earlier ones of its key come back first, so it is asked again later; barred is why
	// it will not be handled.
	MayRun(d wire.Delivery) (wait bool, barred error)

	// MarkStarted records that the handler of a message on trial is called, and
	// MarkEnded that it has returned. fatal is why it will not be called; after any other
	// err it is tried again later.
	MarkStarted(d wire.Delivery) (fatal, err error)
	MarkEnded(d wire.Delivery)

	// RecordHandback records the messages that this process returns.
	RecordHandback(ctx context.Context, ds []wire.Delivery)
}

// ErrConsumerDeleted ends a Durable: somebody deleted the consumer.
var ErrConsumerDeleted = errors.New("the consumer was deleted on the server")

// Durable takes the messages of a durable consumer. The package comment says how. Safe
// for concurrent use.
type Durable struct {
	cfg       DurableConfig
	link      *link.Link
	queue     *dispatch.Queue
	order     order
	authority authority
	isolation dispatch.Isolation
	skipped   skipped
	pullers   []*puller // by the index of their source

	mu             sync.Mutex
	held           map[position]hold
	ackWait        time.Duration // see EffectiveAckWait
	holds          uint64        // numbers them
	waiting        retryWait
	unfinished     []wire.Delivery // failed while draining; to be returned at its end
	unfinishedGone bool            // they have been returned
	kept           []kept
	reports        reports
	draining       bool
	quiesced       bool // asks for nothing for now
	ends           bool // Drain or Abandon was called
	abandoned      bool // nothing is sent to the server any more
	err            error
	deniedAck      deniedAck
	frozen         chan struct{} // settlements wait until it is closed; nil when they need not

	settling atomic.Int64 // settlements that are being handed to the connection
	started  atomic.Bool
	ctx      context.Context // until Drain or Abandon
	cancel   context.CancelFunc

	wake       chan struct{} // something for the maintainer to look at
	stop       chan struct{} // ends the maintainer
	maintained chan struct{} // the maintainer has ended
	done       chan struct{}
	unhook     []func()
}

// OpenDurable subscribes to inboxes of its own. Nothing comes before Start. The error is a
// *link.RefusedError if the permission to ask for messages, or to acknowledge them, is missing.
func OpenDurable(l *link.Link, c DurableConfig) (*Durable, error) {
	d := &Durable{cfg: c, link: l, held: make(map[position]hold), ackWait: c.AckWait,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), maintained: make(chan struct{}), done: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.queue = d.newQueue()
	d.order = newOrder(d)
	d.authority = newAuthority(d)
	for i, from := range append([]Source{c.Source}, c.More...) {
		p, err := d.openPuller(i, from)
		if err != nil {
			d.closePullers()
			return nil, err
		}
		d.pullers = append(d.pullers, p)
	}
	d.unhook = append(d.unhook, l.OnReconnect(d.reconnected))
	if err := d.prove(); err != nil {
		d.closePullers()
		return nil, err
	}
	return d, nil
}

// newQueue returns the queue that runs messages one by one or in batches.
func (d *Durable) newQueue() *dispatch.Queue {
	c := &d.cfg
	q := dispatch.New(c.Concurrency, d.run)
	if c.Batch.Run != nil {
		q = dispatch.NewBatches(c.Concurrency, c.Batch.Size, c.Batch.Wait, d.runBatch)
	}
	q.BeginUntil(c.Stopping)
	if c.Interval > 0 {
		q.Pace(c.Interval)
	}
	return q
}

// Start begins to take messages; they may come before it returns.
// After Drain it does nothing.
func (d *Durable) Start() {
	now := time.Now()
	d.mu.Lock()
	for _, p := range d.pullers {
		d.order.startLocked(p, now)
	}
	if !d.draining {
		d.started.Store(true)
		go d.maintain()
	}
	d.mu.Unlock()
	d.pull()
}

// push queues del. Once the queue has stopped del is returned: at the end of the drain,
// as it may have failed before, or at once where that end is over.
func (d *Durable) push(del wire.Delivery) {
	if d.queue.Push(del) {
		return
	}
	if waits, kept := d.wait(del, 0); !waits && !kept {
		_, _ = d.release(&del, nakBody)
	}
}

// pushAll queues again what was in the queue before. It does not wait for a whole batch.
func (d *Durable) pushAll(ds []wire.Delivery) {
	if len(ds) == 0 {
		return
	}
	for _, del := range ds {
		d.push(del)
	}
	d.queue.Hurry()
}

// endLocked takes no more messages, for good.
func (d *Durable) endLocked(err error) {
	if d.err == nil && !d.draining {
		d.err, d.draining = err, true
		d.reportLocked(err)
	}
}

// Begun is the number of handler calls so far.
func (d *Durable) Begun() int64 { return d.queue.Begun() - d.skipped.begun.Load() }

// Ended is Begun for those that have returned.
func (d *Durable) Ended() int64 { return d.queue.Ended() - d.skipped.ended.Load() }

// InFlight is the number of handlers that run.
func (d *Durable) InFlight() int { return d.queue.InFlight() }

// Longest is the handler call that has been going on for longest, if one does.
func (d *Durable) Longest() (dispatch.Run, bool) { return d.queue.Longest() }

// Pending is the number of messages here that wait for a handler, those before
// their next attempt included, and the bytes of those that do not wait longer.
func (d *Durable) Pending() (msgs, bytes int) {
	msgs, bytes = d.queue.Backlog()
	behind, size := d.order.backlog()
	d.mu.Lock()
	defer d.mu.Unlock()
	return msgs + behind + d.waiting.len() + d.isolation.Kept(), bytes + size
}

// RunsCaller reports whether the caller that ctx names is one of the handlers.
func (d *Durable) RunsCaller(ctx context.Context) bool { return d.queue.RunsCaller(ctx) }

// Done is closed when the intake has ended.
func (d *Durable) Done() <-chan struct{} { return d.done }

// Err is why the intake ended by itself, or nil.
func (d *Durable) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// isDeleted reports whether the consumer was deleted. Then nothing more is stored for it.
func (d *Durable) isDeleted() bool { return errors.Is(d.Err(), ErrConsumerDeleted) }
