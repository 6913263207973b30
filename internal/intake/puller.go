package intake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// Source is a consumer on the server from which a Durable takes messages.
type Source struct {
	Next string // the API subject that takes pull requests
	Info string // the API subject that returns the state of the consumer
	Acks string // the first tokens of the subjects of acknowledgements

	// MaxHeld is how many of its messages may be here at once, with keys: then those that
	// wait behind another do not count for the window.
	MaxHeld int

	// Of the stream's own messages, whose lag is asked for: the API subject that returns
	// a stored message, and the consumer's filter. Empty elsewhere.
	Get, Filter string

	// Restore makes of a message that was deferred what it was before. After an
	// *UnreadableError the message is kept, and after other errors removed. Nil where messages
	// come as they were published.
	Restore func(*wire.Delivery) error

	// Recreate makes the consumer again after somebody deleted it. It is called again,
	// after a while, until the consumer exists; ctx ends with the intake. Nil for the
	// stream itself.
	Recreate func(ctx context.Context) error
}

// puller takes the messages of one Source: it has an inbox, and knows what was asked of
// the server. Its variables are guarded by Durable.mu, unless they are set once.
type puller struct {
	Source
	d     *Durable
	index int // of its Source

	sub      *nats.Subscription // Detach and attach replace it
	detached bool               // the server was told to send nothing to sub any more
	empty    bool               // of a detached one: all that was sent to sub is held

	window    window
	held      int       // of Durable.held
	heldBytes int       // of those
	waiting   int       // of Durable.waiting
	kept      int       // of Durable.kept
	asked     int       // messages requested and not come yet
	heard     time.Time // when the server last said something
	stalled   error     // why no messages can be had; nil when some came since, or can come
	pullAfter time.Time // no request before
	doubt     bool      // nobody took a request; ask with the next one whether the consumer is there
	lastEnd   string    // where the last message was settled for good, unless that was confirmed
	lag       lag
}

// openPuller subscribes to an inbox for the i-th source.
func (d *Durable) openPuller(i int, from Source) (*puller, error) {
	now := time.Now()
	p := &puller{Source: from, d: d, index: i, window: newWindow(d.cfg.Window, d.cfg.atOnce(), now), heard: now}
	sub, unhook, err := p.subscribe()
	if err != nil {
		return nil, err
	}
	p.sub = sub
	d.unhook = append(d.unhook, unhook, d.link.OnDenied(from.Next, p.onDeniedRequest), d.link.OnDenied(from.Acks, d.onDeniedAck))
	return p, nil
}

// subscribe subscribes to a new inbox for p. unhook ends the report of its errors.
func (p *puller) subscribe() (sub *nats.Subscription, unhook func(), err error) {
	d := p.d
	if sub, err = d.link.Conn().Subscribe(d.link.Conn().NewInbox(), d.order.receiver(p)); err != nil {
		return nil, nil, err
	}
	if err := setPendingLimits(sub, -1, -1); err != nil { // the window bounds it
		_ = sub.Unsubscribe()
		return nil, nil, err
	}
	return sub, d.link.Watch(sub, d.cfg.Report), nil
}

// inbox returns the subject of the present inbox.
func (p *puller) inbox() string {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	return p.sub.Subject
}

func (d *Durable) closePullers() {
	for _, unhook := range d.unhook {
		unhook()
	}
	for _, p := range d.pullers {
		_ = p.sub.Unsubscribe()
	}
}

// receive is nats.go's callback: a message, or what the server says. It may not block.
func (p *puller) receive(m *nats.Msg) {
	if m.Reply == "" { // a stored message has one, and any header
		p.onServerMessage(m)
		return
	}
	del, err := p.delivery(m)
	if err != nil {
		p.d.report(fmt.Errorf("a message on the inbox is not from the stream: %w", err))
		return
	}
	if p.Restore != nil {
		if err := p.Restore(del); err != nil {
			p.notRestored(del, m, err)
			return
		}
	}
	if p.d.order.admit(p, del, m.Reply) {
		p.pull()
		return
	}
	fresh, room := p.hold(del, m)
	if fresh && !p.d.authority.settledBefore(del) {
		p.d.order.arrive(*del)
	}
	if room {
		p.pull()
	}
}

// delivery is the message that m brings, in one allocation with what is known of it.
func (p *puller) delivery(m *nats.Msg) (*wire.Delivery, error) {
	come := &struct {
		del    wire.Delivery
		stored wire.Stored
	}{}
	if err := come.stored.ReadAck(m.Reply); err != nil {
		return nil, err
	}
	come.stored.Attempt, come.stored.Source, come.stored.SourceSequence = 1, p.index, come.stored.Sequence
	come.del = wire.Delivery{In: wire.In{Subject: m.Subject, Header: m.Header, Data: m.Data}, Stored: &come.stored}
	return &come.del, nil
}

// notRestored keeps or rejects del, which m brought.
func (p *puller) notRestored(del *wire.Delivery, m *nats.Msg, err error) {
	if why, ok := errors.AsType[*UnreadableError](err); ok {
		p.keep(del, m, why)
	} else {
		p.reject(del, m.Reply, err)
	}
}

// reject terminates del, which somebody else has put where ours come back. It counts as
// one that came: otherwise the order would wait for it for ever.
func (p *puller) reject(del *wire.Delivery, reply string, why error) {
	d, now := p.d, time.Now()
	d.mu.Lock()
	p.arrivedLocked(now)
	d.order.deliveredLocked(p, del, now, false)
	p.lastEnd = reply
	abandoned := d.abandoned
	d.mu.Unlock()
	if !abandoned {
		_ = d.link.Publish(&wire.Out{Subject: reply, Data: termBody}) // else it comes again
	}
	d.report(&RejectedError{why})
	p.pull()
}

// RejectedError is reported when a message came back that cannot be restored.
type RejectedError struct{ Err error }

func (e *RejectedError) Error() string {
	return fmt.Sprintf("a message among those that come back was not written by this library, or is damaged, and is removed: %v", e.Err)
}

// Unwrap returns why it cannot be restored.
func (e *RejectedError) Unwrap() error { return e.Err }

// position identifies a message among those of all sources.
type position struct {
	source   int // index
	sequence uint64
}

func positionOf(d *wire.Delivery) position { return position{d.Stored.Source, d.Stored.SourceSequence} }

// hold is a message this process is responsible for.
type hold struct {
	hold   uint64    // numbers it; a message of a stream that was created again gets another
	number uint64    // of the latest delivery of it, among those of its consumer
	stored time.Time // when the server stored it
	size   int       // bytes; 0 if it is kept
	reply  string    // where to settle the latest delivery of it
	alive  time.Time // when the server last heard of it
	kept   bool      // it cannot be read: see puller.keep
}

// hold records that del, which m brought, is this process's to settle. It is not fresh
// if it is here already; then the newer delivery replaces the older one. room says
// that there may be room for more.
func (p *puller) hold(del *wire.Delivery, m *nats.Msg) (fresh, room bool) {
	d, now, at := p.d, time.Now(), positionOf(del)
	h := hold{number: del.Stored.ConsumerSequence, stored: del.Stored.Time, size: m.Size(), reply: m.Reply, alive: now}
	d.mu.Lock()
	defer d.mu.Unlock()
	p.arrivedLocked(now)
	p.lag.pending = del.Stored.NumPending
	if main := &d.pullers[0].lag; !main.moved {
		main.moved = true
		d.wakeMaintainer() // askLag may be due
	}
	old, there := d.held[at]
	again := there && old.stored.Equal(h.stored)
	d.order.deliveredLocked(p, del, now, again)
	if again {
		h.hold, h.kept, h.size = old.hold, old.kept, old.size
		d.held[at] = h
		return false, p.hasRoom()
	}
	if there { // the stream was created again: the old message is not ours any more
		p.letGo(old)
	}
	d.holds++
	h.hold, del.Stored.HoldID = d.holds, d.holds
	d.held[at] = h
	p.held++
	p.heldBytes += h.size
	return true, p.hasRoom()
}

// arrivedLocked records that a message has come.
func (p *puller) arrivedLocked(now time.Time) {
	p.heard, p.stalled = now, nil
	p.asked = max(p.asked-1, 0)
}

// letGo forgets h, which is out of Durable.held. It is called with Durable.mu.
func (p *puller) letGo(h hold) {
	p.held--
	p.heldBytes -= h.size
	if h.kept {
		p.kept--
	}
	p.window.settled++
}

const (
	pullExpiry = 30 * time.Second
	heartbeat  = 5 * time.Second // the server sends one when it has nothing else
	retryPull  = 250 * time.Millisecond
)

// pull has each puller ask for what its window has room for.
func (d *Durable) pull() {
	for _, p := range d.pullers {
		p.pull()
	}
}

// pull asks for messages once half the window is free. Every goroutine that makes room
// calls it.
func (p *puller) pull() {
	messages, bytes, doubt := p.want()
	if messages == 0 {
		return
	}
	err := p.ask(messages, bytes, p.d.authority.pullExpiry())
	if doubt && err == nil {
		err = p.inquire()
	}
	if err == nil {
		return
	}
	now := time.Now()
	p.d.mu.Lock()
	p.beginLocked(now, now.Add(retryPull))
	p.stallLocked(err)
	p.d.mu.Unlock()
	p.d.wakeMaintainer()
}

// want records as asked, and returns, how many messages there is room for, in how
// many bytes, and whether to ask about the consumer as well. Nothing is asked of a
// server that is not there: requests would pile up until it comes back.
func (p *puller) want() (messages, bytes int, doubt bool) {
	d := p.d
	connected := d.link.Conn().IsConnected()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.draining || d.quiesced || d.queue.IsStopping() || !connected || now.Before(p.pullAfter) {
		return 0, 0, false
	}
	messages, bytes = p.window.room(now, p.here(), p.asked, p.heldBytes, d.link.MaxPayload())
	messages, bytes = d.order.creditLocked(p, messages, bytes)
	if messages == 0 {
		return 0, 0, false
	}
	if p.asked == 0 {
		p.heard = now // it may have been long ago that anything was asked
	}
	p.asked += messages
	doubt, p.doubt = p.doubt, false
	return messages, bytes, doubt
}

// here is how many messages count for the window: not those that wait for their next
// attempt or cannot be read, nor those that wait for others. It is called with Durable.mu.
func (p *puller) here() int { return p.held - p.waiting - p.kept - p.d.order.waitingLocked(p) }

// hasRoom reports cheaply whether it is worth while to ask for messages. It is called with
// Durable.mu.
func (p *puller) hasRoom() bool {
	return p.window.hasRoom(p.here(), p.asked) || p.d.order.wantsMoreLocked(p)
}

// ask sends a request for messages, in any number of bytes if that is 0.
func (p *puller) ask(messages, bytes int, expiry time.Duration) error {
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Bytes     int           `json:"max_bytes,omitempty"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{messages, bytes, expiry, min(heartbeat, expiry/2)})
	if err != nil {
		return err
	}
	return p.d.link.Publish(&wire.Out{Subject: p.Next, Reply: p.inbox(), Data: body})
}

// beginLocked forgets what was asked of the server.
func (p *puller) beginLocked(now, pullAfter time.Time) {
	p.asked, p.heard, p.pullAfter = 0, now, pullAfter
}

const (
	// ahead is how much work a source takes in: enough that the server is asked
	// seldom, and little enough that other processes get their share, and that a
	// process which dies leaves little behind.
	ahead = time.Second

	maxWindow   = 256     // messages, unless the concurrency needs more
	windowBytes = 8 << 20 // unless the largest payload needs more
)

// window says how many messages of a source may be here or on their way: what the
// handlers did lately within ahead. Not safe for concurrent use.
type window struct {
	minSize, maxSize int
	size             int
	settled          int       // messages since then
	since            time.Time // when messages were last asked for
}

func newWindow(first, concurrency int, now time.Time) window {
	w := window{minSize: 2 * concurrency, maxSize: max(maxWindow, 4*concurrency), since: now}
	w.size = min(max(w.minSize, first), w.maxSize)
	return w
}

// hasRoom is whether room might return anything.
func (w *window) hasRoom(here, asked int) bool {
	return w.size-here-asked >= max(w.size/2, 1)
}

// room returns how many messages to ask for in how many bytes, 0 for none yet, when
// so many are here (with so many bytes) and asked for. The caller must ask for them.
func (w *window) room(now time.Time, here, asked, bytes, largest int) (messages, room int) {
	size := w.estimate(now)
	free := size - here - asked
	room = max(windowBytes, 4*largest) - bytes
	if free < max(size/2, 1) || room < 2*largest && bytes > 0 {
		return 0, 0
	}
	w.size, w.settled, w.since = size, 0, now
	return free, max(room, 2*largest)
}

// estimate is the size by what was settled since messages were last asked for. It
// goes down by steps, so that one slow message does not count for all.
func (w *window) estimate(now time.Time) int {
	if w.settled == 0 {
		return w.size
	}
	took := max(now.Sub(w.since), time.Microsecond)
	size := int(float64(w.settled) * float64(ahead) / float64(took))
	return min(max(size, w.size/2, w.minSize), w.maxSize)
}
