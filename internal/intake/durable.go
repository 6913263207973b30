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
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// DurableConfig describes how one process takes part in a durable consumer.
type DurableConfig struct {
	Source               // of the stream itself
	More        []Source // of messages that were put aside and come back, if any
	Concurrency int
	Window      int           // messages of a source to begin with; it follows what the handlers do
	AckWait     time.Duration // the consumers', to keep messages alive within it
	Policy      settle.Policy
	Timeout     time.Duration

	// Key names the messages whose order is kept; those without a name run beside
	// them. An error means that the message is not handled. It is called by nats.go's
	// goroutines and must not panic. Nil where no order is kept.
	Key func(*wire.Delivery) (string, error)
	// GiveUpStuck has a message with a key buried before its last attempt when too many
	// others wait behind it: it fails, and they fill a quarter of its source's MaxHeld, or all
	// there is.
	GiveUpStuck bool

	Recovery Recovery // nil for none

	Interval time.Duration                                        // between the beginnings of two handler calls; 0 for none
	Run      func(wire.Delivery) settle.Outcome                   // one handler call; it must not panic. It may end its goroutine
	Exited   func(wire.Delivery) settle.Outcome                   // the outcome of a call that did; nil where none does
	Retrying func(d wire.Delivery, err error)                     // d failed with err and will be tried again; nil for none
	Batch    Batch                                                // instead of Run, if it has a Run of its own
	Settling func(d wire.Delivery, name string) (end func(error)) // traces a settlement
	Report   func(err error)                                      // no messages can be had: for now, or never again when it is ErrConsumerDeleted

	// WriteDeadLetter puts a message that will not be handled where it is kept. It is called
	// again, after a while, until it returns nil; then the message is terminated.
	// Nil where nothing is buried: then Run asks for no such thing.
	WriteDeadLetter func(wire.Delivery) error

	// Owner is asked before anything is settled for good, where several processes keep
	// an order together. Nil where this one has the consumer for itself, or no order is
	// maintained. With one nothing is parked.
	Owner Owner

	// DeferRetry stores a message that is to be tried again at a later time, so that it
	// need not wait here; it comes back by another source. Where it fails or is nil
	// the message waits here.
	DeferRetry func(ctx context.Context, d wire.Delivery, at time.Time) error
}

var (
	ackBody      = []byte("+ACK")
	nakBody      = []byte("-NAK 0s") // with a delay, since only then the server's store knows: after a restart it comes at once, too
	termBody     = []byte("+TERM")
	progressBody = []byte("+WPI")
)

// What waits longer than deferAfter for its next attempt is parked, and what would be
// more than maxWaiting at once. Below that the server has less work with messages
// that wait here.
const (
	deferAfter = 30 * time.Second
	maxWaiting = 512
)

// ErrConsumerDeleted ends a Durable: somebody deleted the consumer.
var ErrConsumerDeleted = errors.New("the consumer was deleted on the server")

// Durable takes the messages of a durable consumer.
//
// It asks the server for no more than its windows have room for, so its queue never
// has to refuse. What it holds (queued, running, waiting for the next attempt) it
// keeps alive with in-progress signals. The handler's outcome acknowledges a
// message, makes it wait here, or buries it, so retries do not depend on the
// server.
//
// States: open → draining → closed, or open → closed when the consumer is gone.
// Goroutines: nats.go's for the inboxes, which never block; the queue's workers,
// keep, and reporter while there is reports to report. Drain waits for the latter
// three, but not for the one that called it.
type Durable struct {
	cfg       DurableConfig
	link      *link.Link
	queue     *dispatch.Queue
	lanes     *dispatch.Lanes // nil without keys
	isolation dispatch.Isolation
	skipped   skipped
	pullers   []*puller

	mu        sync.Mutex
	held      map[position]hold
	waiting   waiting
	stuck     map[string]*stuckKey // by key
	crowded   bool                 // stuck is to be looked at
	recent    recent
	left      []wire.Delivery // to be given back at the end of the drain
	leftGone  bool            // that has been done
	holds     uint64          // numbers them
	reports   reports
	draining  bool
	quiesced  bool // ask for nothing for now
	ends      bool // somebody closes it
	abandoned bool // nothing is reported to the server any more
	err       error

	started atomic.Bool

	wake       chan struct{} // something for keep to look at
	stop       chan struct{} // ends keep
	maintained chan struct{} // keep has ended
	done       chan struct{}
	unhook     []func()
}

// position identifies a message among those of all pullers.
type position struct {
	source   int
	sequence uint64
}

func positionOf(d *wire.Delivery) position { return position{d.Stored.Source, d.Stored.Position} }

// hold is a message this process is responsible for.
type hold struct {
	hold   uint64    // numbers it; a message of a stream that was made anew gets another
	number uint64    // of the latest delivery of it, among those of its consumer
	stored time.Time // when the server stored it
	size   int       // bytes
	reply  string    // where to settle the latest delivery of it
	alive  time.Time // when the server last heard of it
}

// OpenDurable subscribes to inboxes of its own. Nothing comes before Start.
func OpenDurable(l *link.Link, c DurableConfig) (*Durable, error) {
	d := &Durable{cfg: c, link: l, held: make(map[position]hold), stuck: make(map[string]*stuckKey),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), maintained: make(chan struct{}), done: make(chan struct{})}
	d.queue = d.newQueue()
	if c.Key != nil {
		d.lanes = dispatch.NewLanes(true)
	}
	for i, from := range append([]Source{c.Source}, c.More...) {
		s, err := d.openPuller(i, from)
		if err != nil {
			d.closePullers()
			return nil, err
		}
		d.pullers = append(d.pullers, s)
	}
	d.unhook = append(d.unhook, l.OnReconnect(d.restart))
	return d, nil
}

// Start begins to take messages; they may come before it returns.
// After Drain it does nothing.
func (d *Durable) Start() {
	d.shutBarriers(time.Now())
	d.mu.Lock()
	if !d.draining {
		d.started.Store(true)
		go d.maintain()
	}
	d.mu.Unlock()
	d.pull()
}

// push queues del. When the queue has stopped it is given back: with the rest in the end,
// as it may have failed before, or at once where that is over.
func (d *Durable) push(del wire.Delivery) {
	if d.queue.Push(del) {
		return
	}
	if waits, kept := d.wait(del, 0); !waits && !kept {
		_, _ = d.release(&del, nakBody)
	}
}

// endLocked takes no more messages, for good.
func (d *Durable) endLocked(err error) {
	if d.err == nil && !d.draining {
		d.err, d.draining = err, true
		d.reportLocked(err)
	}
}

// restart forgets what was asked of a server that is no more.
func (d *Durable) restart() {
	d.mu.Lock()
	now := time.Now()
	for _, s := range d.pullers {
		s.begin(now, time.Time{})
		s.stale, _, _ = s.sub.Pending() // what these say is about the server that is no more
		s.repeat = true
		d.shutBarrierLocked(s, now)
	}
	d.mu.Unlock()
	d.pull()
}

// pull has each source ask for what its window has room for.
func (d *Durable) pull() {
	for _, s := range d.pullers {
		s.pull()
	}
}

// run makes one attempt at a message, on a worker of the queue.
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

// errExited is the outcome of a handler call that ended its goroutine, unless Exited says
// what that means.
var errExited = settle.Outcome{Err: errors.New("the handler ended its goroutine")}

// conclude acts on the outcome of an attempt at del.
func (d *Durable) conclude(del wire.Delivery, outcome settle.Outcome) {
	action, after := settle.Decide(d.cfg.Policy, del.Stored.Attempt, outcome)
	if action == settle.Retry && d.failed(del, outcome.Err) {
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

// repeatAttempt has the handler called for the same attempt at del after a while. While
// stopping del is given back; only what has failed before is parked, so that its
// attempts are not forgotten.
func (d *Durable) repeatAttempt(del wire.Delivery, after time.Duration) {
	if del.Stored.Attempt > 1 || !d.stopping() {
		d.retry(del, after)
		return
	}
	d.again(del, 0)
}

func (d *Durable) stopping() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.draining
}

// retry has the handler try del again after a while: here, or parked. Those with keys
// are never parked, since those behind them wait here.
func (d *Durable) retry(del wire.Delivery, after time.Duration) {
	if hasKey(&del) || !d.mustDefer(after) || !d.deferRetry(context.Background(), del, time.Now().Add(after)) {
		d.again(del, after)
	}
}

func (d *Durable) mustDefer(after time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.draining || after >= deferAfter || d.waiting.len() >= maxWaiting
}

// deferRetry stores del until its time, and lets go of it. It returns false if it is
// still here.
func (d *Durable) deferRetry(ctx context.Context, del wire.Delivery, at time.Time) bool {
	if d.cfg.DeferRetry == nil || d.cfg.DeferRetry(ctx, del, at) != nil {
		return false
	}
	d.settle(del, telemetry.OpAck, ackBody)
	return true
}

// again has del tried again here after a while, or gives it back when stopping.
func (d *Durable) again(del wire.Delivery, after time.Duration) {
	waits, kept := d.wait(del, after)
	switch {
	case waits:
		d.wakeMaintainer()
		d.pull()
	case !kept:
		d.giveBack(context.Background(), dueNow([]wire.Delivery{del}))
	}
}

// deadLetterRetry is when a message that could not be buried is tried again.
const deadLetterRetry = time.Second

// writeDeadLetter puts del where it is kept and terminates it. While that fails, or too many others
// wait for it, the message stays where it is.
func (d *Durable) writeDeadLetter(del wire.Delivery) {
	noted, full := d.markDead(del)
	switch {
	case full, noted && d.cfg.WriteDeadLetter(del) != nil:
		d.again(del, deadLetterRetry)
	case noted:
		d.finish(del, telemetry.OpTerm, termBody)
	}
}

// finish settles del for good, and lets the next one of its key run.
func (d *Durable) finish(del wire.Delivery, name string, body []byte) {
	if d.cfg.Owner == nil {
		d.settle(del, name, body)
	} else {
		d.settleAsOwner(del, name, body)
	}
	d.unstick(&del)
	d.leave(&del)
}

// settle ends this process's responsibility for del.
func (d *Durable) settle(del wire.Delivery, name string, body []byte) {
	end := d.cfg.Settling(del, name)
	room, err := d.release(&del, body)
	end(err)
	if room {
		d.pullers[del.Stored.Source].pull()
	}
}

// wait puts del aside, unless the intake is stopping: then it is kept for those that
// are given back in the end, as long as that is not over.
func (d *Durable) wait(del wire.Delivery, after time.Duration) (waits, kept bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining {
		if !d.leftGone {
			d.left = append(d.left, del)
		}
		return false, !d.leftGone
	}
	d.pullers[del.Stored.Source].waiting++
	d.waiting.add(time.Now().Add(after), del)
	return true, true
}

// release settles a held message with body and lets it go. A signal that does not
// arrive does no harm: the message comes again. room says that there may be room for
// more.
func (d *Durable) release(del *wire.Delivery, body []byte) (room bool, err error) {
	p := positionOf(del)
	d.mu.Lock()
	h := d.held[p]
	if h.hold != del.Stored.Hold { // its stream is no more, and another message has its place
		d.mu.Unlock()
		return false, nil
	}
	delete(d.held, p)
	s := d.pullers[p.source]
	s.letGo(h)
	room = s.hasRoom()
	if &body[0] != &nakBody[0] {
		s.lastEnd, s.lastAt = h.reply, p.sequence
		if d.keyed() {
			d.recent.add(p, recentEnd{h.stored, h.reply, body})
		}
	}
	abandoned := d.abandoned
	d.mu.Unlock()
	if abandoned {
		return false, nil
	}
	return room, d.link.Publish(&wire.Out{Subject: h.reply, Data: body})
}

func (d *Durable) wakeMaintainer() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Begun is the number of handler calls so far.
func (d *Durable) Begun() int64 { return d.queue.Begun() - d.skipped.begun.Load() }

// Ended is Begun for those that have returned.
func (d *Durable) Ended() int64 { return d.queue.Ended() - d.skipped.ended.Load() }

// InFlight is the number of handlers that run.
func (d *Durable) InFlight() int { return d.queue.InFlight() }

// Pending is the number of messages here that wait for a handler, those before
// their next attempt included, and the bytes of those that do not wait longer.
func (d *Durable) Pending() (msgs, bytes int) {
	msgs, bytes = d.queue.Backlog()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keyed() {
		waiting, size := d.lanes.Backlog()
		msgs, bytes = msgs+waiting, bytes+size
	}
	return msgs + d.waiting.len() + d.isolation.Kept(), bytes
}

// RunsCaller reports whether the caller that ctx notes is one of the handlers.
func (d *Durable) RunsCaller(ctx context.Context) bool { return d.queue.RunsCaller(ctx) }

// Done is closed when the intake has ended.
func (d *Durable) Done() <-chan struct{} { return d.done }

// Err is why the intake ended by itself, or nil.
func (d *Durable) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
