package intake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// DurableConfig describes how one process takes part in a durable consumer.
type DurableConfig struct {
	Next        string // the API subject that takes pull requests
	Concurrency int
	AckWait     time.Duration // the consumer's, to keep messages alive within it
	Policy      settle.Policy
	Timeout     time.Duration
	Run         func(wire.Delivery) settle.Outcome                   // one handler call; it must not panic
	Settling    func(d wire.Delivery, name string) (end func(error)) // traces a settlement
	Stalled     func(err error)                                      // no messages can be had: for now, or never again when it is ErrConsumerDeleted
}

var (
	ackBody      = []byte("+ACK")
	nakBody      = []byte("-NAK")
	progressBody = []byte("+WPI")
)

const (
	smallestWindow = 256
	pullExpiry     = 30 * time.Second
	heartbeat      = 5 * time.Second // the server sends one when it has nothing else
	retryPull      = 250 * time.Millisecond
)

// ErrConsumerDeleted ends a Durable: somebody deleted the consumer.
var ErrConsumerDeleted = errors.New("the consumer was deleted on the server")

// Durable takes the messages of a durable consumer.
//
// It asks the server for no more than its window has room for, so its queue never
// has to refuse. What it holds (queued, running, waiting for the next attempt) it
// keeps alive with in-progress signals. The handler's outcome acknowledges a
// message or makes it wait here, so retries do not depend on the server.
//
// States: open → draining → closed, or open → closed when the consumer is gone.
// Goroutines: nats.go's for the inbox, which never blocks; the queue's workers,
// which Drain waits for; and keep, which Drain waits for too.
type Durable struct {
	cfg    DurableConfig
	link   *link.Link
	queue  *dispatch.Queue
	sub    *nats.Subscription
	window int

	mu        sync.Mutex
	held      map[uint64]hold // by stream sequence
	waiting   waiting
	asked     int       // messages requested and not come yet
	heard     time.Time // when the server last said something
	stalled   bool      // reported, and nothing came since
	trouble   error     // for keep to report
	pullAfter time.Time // no pull before
	draining  bool
	lastAck   string
	err       error

	started atomic.Bool

	wake   chan struct{} // something for keep to look at
	stop   chan struct{} // ends keep
	kept   chan struct{} // keep has ended
	done   chan struct{}
	unhook []func()
}

// hold is a message this process is responsible for.
type hold struct {
	reply string    // where to settle the latest delivery of it
	alive time.Time // when the server last heard of it
}

// OpenDurable subscribes to an inbox of its own. Nothing comes before Start.
func OpenDurable(l *link.Link, c DurableConfig) (*Durable, error) {
	d := &Durable{cfg: c, link: l, window: max(smallestWindow, 4*c.Concurrency), held: make(map[uint64]hold),
		heard: time.Now(), wake: make(chan struct{}, 1), stop: make(chan struct{}), kept: make(chan struct{}), done: make(chan struct{})}
	d.queue = dispatch.New(c.Concurrency, d.run)
	sub, err := l.Conn().Subscribe(l.Conn().NewInbox(), d.take)
	if err != nil {
		return nil, err
	}
	d.sub = sub
	if err := sub.SetPendingLimits(-1, -1); err != nil { // the window bounds it
		_ = sub.Unsubscribe()
		return nil, err
	}
	d.unhook = append(d.unhook,
		l.Watch(sub, c.Stalled),
		l.OnReconnect(d.restart))
	return d, nil
}

// Start begins to take messages; they may come before it returns.
func (d *Durable) Start() {
	d.started.Store(true)
	go d.keep()
	d.pull()
}

// take is nats.go's callback: a message, or a word of the server about a pull.
func (d *Durable) take(m *nats.Msg) {
	if m.Reply == "" && len(m.Header) > 0 { // a stored message has a reply subject, and any header
		if status := m.Header.Get("Status"); status != "" {
			d.heed(status, m)
			return
		}
	}
	meta, err := m.Metadata()
	if err != nil {
		d.mu.Lock()
		d.trouble = fmt.Errorf("a message on the inbox is not from the stream: %w", err)
		d.mu.Unlock()
		d.nudge()
		return
	}
	if d.hold(meta.Sequence.Stream, m.Reply) {
		d.push(wire.Delivery{Subject: m.Subject, Header: m.Header, Data: m.Data, Stored: &wire.Stored{Stream: meta.Stream,
			Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Deliveries: int(meta.NumDelivered), Attempt: 1}})
	}
	d.pull()
}

// push queues del, or gives it back when the queue has stopped.
func (d *Durable) push(del wire.Delivery) {
	if !d.queue.Push(del) {
		_ = d.release(del.Stored.Sequence, nakBody)
	}
}

// hold notes that seq is this process's to settle. It returns false for a
// message it has already, whose newer delivery replaces the older one.
func (d *Durable) hold(seq uint64, reply string) bool {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.heard, d.stalled = now, false
	d.asked = max(d.asked-1, 0)
	_, again := d.held[seq]
	d.held[seq] = hold{reply, now}
	return !again
}

// heed acts on a status message.
func (d *Durable) heed(status string, m *nats.Msg) {
	d.mu.Lock()
	d.heard = time.Now()
	if status == "100" {
		d.mu.Unlock()
		return
	}
	description := m.Header.Get("Description")
	left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	switch {
	case description == "Consumer Deleted":
		d.endLocked(ErrConsumerDeleted)
	case err == nil: // the end of a pull, with what it still had to deliver
		d.asked = max(d.asked-left, 0)
	default: // nobody there, or a refusal: begin afresh after a while
		d.asked = 0
		d.pullAfter = time.Now().Add(retryPull)
		d.stallLocked(errors.New(status + " " + description))
	}
	d.mu.Unlock()
	d.pull()
	d.nudge()
}

// stallLocked has keep report, once, that no messages can be had.
func (d *Durable) stallLocked(err error) {
	if d.stalled || d.draining {
		return
	}
	d.stalled, d.trouble = true, err
}

// endLocked takes no more messages, for good.
func (d *Durable) endLocked(err error) {
	if d.err == nil && !d.draining {
		d.err, d.draining, d.trouble = err, true, err
	}
}

// restart forgets what was asked of a server that is no more.
func (d *Durable) restart() {
	d.mu.Lock()
	d.asked, d.heard, d.pullAfter = 0, time.Now(), time.Time{}
	d.mu.Unlock()
	d.pull()
}

// pull asks for messages once half the window is free.
func (d *Durable) pull() {
	d.mu.Lock()
	active := len(d.held) - d.waiting.len()
	free := d.window - active - d.asked
	if d.draining || free < d.window/2 || time.Now().Before(d.pullAfter) {
		d.mu.Unlock()
		return
	}
	d.asked += free
	d.mu.Unlock()
	if err := d.ask(free); err != nil {
		d.mu.Lock()
		d.asked = 0
		d.pullAfter = time.Now().Add(retryPull)
		d.stallLocked(err)
		d.mu.Unlock()
		d.nudge()
	}
}

func (d *Durable) ask(n int) error {
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{n, pullExpiry, heartbeat})
	if err != nil {
		return err
	}
	return d.link.Publish(&wire.Out{Subject: d.cfg.Next, Reply: d.sub.Subject, Data: body})
}

// run makes one attempt at a message, on a worker of the queue.
func (d *Durable) run(del wire.Delivery) {
	action, after := settle.Decide(d.cfg.Policy, del.Stored.Attempt, d.cfg.Run(del))
	if action == settle.Wait && d.wait(del, after) {
		d.nudge()
		d.pull()
		return
	}
	name, body := telemetry.OpAck, ackBody
	if action == settle.Wait { // stopping: give it back instead
		name, body = telemetry.OpNak, nakBody
	}
	end := d.cfg.Settling(del, name)
	end(d.release(del.Stored.Sequence, body))
	d.pull()
}

// wait puts del aside for its next attempt, unless the intake is stopping.
func (d *Durable) wait(del wire.Delivery, after time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining {
		return false
	}
	del.Stored.Attempt++
	d.waiting.add(time.Now().Add(after), del)
	return true
}

// release settles a held message with body and lets it go.
// A signal that does not arrive does no harm: the message comes again.
func (d *Durable) release(seq uint64, body []byte) error {
	d.mu.Lock()
	h := d.held[seq]
	delete(d.held, seq)
	if &body[0] == &ackBody[0] {
		d.lastAck = h.reply
	}
	d.mu.Unlock()
	return d.link.Publish(&wire.Out{Subject: h.reply, Data: body})
}

func (d *Durable) nudge() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Begun is the number of handler calls so far.
func (d *Durable) Begun() int64 { return d.queue.Begun() }

// Ended is Begun for those that have returned.
func (d *Durable) Ended() int64 { return d.queue.Ended() }

// InFlight is the number of handlers that run.
func (d *Durable) InFlight() int { return d.queue.InFlight() }

// Pending is the number of messages here that wait for a handler, those before
// their next attempt included, and the bytes of those that do not wait longer.
func (d *Durable) Pending() (msgs, bytes int) {
	msgs, bytes = d.queue.Backlog()
	d.mu.Lock()
	defer d.mu.Unlock()
	return msgs + d.waiting.len(), bytes
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
