package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/wire"
)

// Source is a consumer on the server from which a Durable takes messages.
type Source struct {
	Next string // the API subject that takes pull requests
	Info string // the API subject that tells about the consumer

	// MaxHeld is how many of its messages may be here at once, with keys: then those that
	// wait behind another do not count for the window.
	MaxHeld int

	// Of the stream's own messages, whose lag is asked for: the API subject that returns
	// a stored message, and the consumer's filter. Empty elsewhere.
	Get, Filter string

	// Restore makes of a message that was put aside what it was before. Nil where
	// messages come as they were published.
	Restore func(*wire.Delivery) error
}

const (
	pullExpiry = 30 * time.Second
	heartbeat  = 5 * time.Second // the server sends one when it has nothing else
	retryPull  = 250 * time.Millisecond
)

// source is one Source of a Durable: its inbox, and what was asked of the server.
// Its variables are guarded by the Durable's mu.
type puller struct {
	Source
	d     *Durable
	index int
	sub   *nats.Subscription

	window    window
	held      int       // of the Durable's held
	heldBytes int       // of those
	waiting   int       // of the Durable's waiting
	asked     int       // messages requested and not come yet
	heard     time.Time // when the server last said something
	stalled   error     // why no messages can be had; nil when some came since, or can come
	pullAfter time.Time // no pull before
	lag       lag
	barrier   startBarrier // with keys: whether all that is out is here
	full      bool         // with keys: what waits leaves no room
	created   time.Time    // when the consumer was made, as far as that was said
	repeat    bool         // the connection was lost; say again what may not have arrived
	lastEnd   string       // where the last message was settled, unless that was confirmed
	lastAt    uint64       // the sequence of that one
	stale     int          // words of a server that is no more, which are not heard yet
	doubt     bool         // nobody took a pull; ask with the next one whether the consumer is there
}

// openPuller subscribes to an inbox for the i-th source.
func (d *Durable) openPuller(i int, from Source) (*puller, error) {
	now := time.Now()
	s := &puller{Source: from, d: d, index: i, window: newWindow(d.cfg.Window, d.cfg.atOnce(), now), heard: now}
	sub, err := d.link.Conn().Subscribe(d.link.Conn().NewInbox(), s.take)
	if err != nil {
		return nil, err
	}
	s.sub = sub
	if err := sub.SetPendingLimits(-1, -1); err != nil { // the window bounds it
		_ = sub.Unsubscribe()
		return nil, err
	}
	d.unhook = append(d.unhook, d.link.Watch(sub, d.cfg.Report))
	return s, nil
}

func (d *Durable) closePullers() {
	for _, unhook := range d.unhook {
		unhook()
	}
	for _, s := range d.pullers {
		_ = s.sub.Unsubscribe()
	}
}

// take is nats.go's callback: a message, or a word of the server.
func (s *puller) take(m *nats.Msg) {
	defer s.heardOne()
	if m.Reply == "" { // a stored message has one, and any header
		s.onStatus(m)
		return
	}
	del, err := s.delivery(m)
	if err != nil {
		s.d.report(fmt.Errorf("a message on the inbox is not from the stream: %w", err))
		return
	}
	if s.Restore != nil {
		if err := s.Restore(del); err != nil {
			s.reject(del, m.Reply, err)
			return
		}
	}
	if s.settledBefore(del, m.Reply) {
		s.pull()
		return
	}
	s.d.name(del)
	fresh, room := s.hold(del, m)
	if fresh && !s.d.settledElsewhere(del) {
		s.d.enter(*del)
	}
	if room {
		s.pull()
	}
}

// heardOne counts what was left of the last connection.
func (s *puller) heardOne() {
	if s.d.keyed() {
		s.d.mu.Lock()
		s.stale = max(s.stale-1, 0)
		s.d.mu.Unlock()
	}
}

// delivery is the message that m brings, in one allocation with what is known of it.
func (s *puller) delivery(m *nats.Msg) (*wire.Delivery, error) {
	come := &struct {
		del    wire.Delivery
		stored wire.Stored
	}{}
	if err := come.stored.ReadAck(m.Reply); err != nil {
		return nil, err
	}
	come.stored.Attempt, come.stored.Source, come.stored.Position = 1, s.index, come.stored.Sequence
	come.del = wire.Delivery{In: wire.In{Subject: m.Subject, Header: m.Header, Data: m.Data}, Stored: &come.stored}
	return &come.del, nil
}

// reject terminates del, which somebody else has put where ours come back. It counts as
// one that came: else the barrier would wait for it for ever.
func (s *puller) reject(del *wire.Delivery, reply string, why error) {
	d, now := s.d, time.Now()
	d.mu.Lock()
	s.arrivedLocked(del, now)
	if del.Stored.Deliveries > 1 && s.barrier.arrived(now) {
		d.wakeMaintainer()
	}
	s.lastEnd, s.lastAt = reply, del.Stored.Position
	abandoned := d.abandoned
	d.mu.Unlock()
	if !abandoned {
		_ = d.link.Publish(&wire.Out{Subject: reply, Data: termBody}) // else it comes again
	}
	d.report(fmt.Errorf("a message on the inbox is not from the stream, and is removed: %w", why))
	s.pull()
}

// hold notes that del, which m brought, is this process's to settle. It is not fresh
// if it is here already; then the newer delivery replaces the older one. room says
// that there may be room for more.
func (s *puller) hold(del *wire.Delivery, m *nats.Msg) (fresh, room bool) {
	now, p := time.Now(), positionOf(del)
	h := hold{number: del.Stored.Number, stored: del.Stored.Time, size: m.Size(), reply: m.Reply, alive: now}
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.arrivedLocked(del, now)
	s.lag.pending, s.lag.moved = del.Stored.Left, true
	old, there := s.d.held[p]
	if there && old.stored.Equal(h.stored) {
		h.hold = old.hold
		s.d.held[p] = h
		s.barrier.cameAgain()
		return false, s.hasRoom()
	}
	if there { // the stream was made anew: the old message is not ours any more
		s.letGo(old)
	}
	s.d.holds++
	h.hold, del.Stored.Hold = s.d.holds, s.d.holds
	s.d.held[p] = h
	s.held++
	s.heldBytes += h.size
	if del.Stored.Deliveries > 1 && s.barrier.arrived(now) {
		s.d.wakeMaintainer()
	}
	return true, s.hasRoom()
}

// arrivedLocked notes that del has come.
func (s *puller) arrivedLocked(del *wire.Delivery, now time.Time) {
	s.heard, s.stalled = now, nil
	s.asked = max(s.asked-1, 0)
	if !s.barrier.delivered(del.Stored.Number) {
		s.d.shutBarrierLocked(s, now)
	}
}

// here is how many messages count for the window: not those that wait for their next
// attempt, nor those that wait behind another of their key.
func (s *puller) here() int {
	here := s.held - s.waiting
	if s.d.keyed() && s.barrier.open {
		here -= s.d.lanes.Waiting(s.index)
	}
	return here
}

// hasRoom tells cheaply whether it is worth while to ask for messages.
func (s *puller) hasRoom() bool {
	return s.window.hasRoom(s.here(), s.asked) || s.barrier.extra > s.asked || s.barrier.more > s.asked/2
}

// letGo forgets h, which is out of the Durable's held.
func (s *puller) letGo(h hold) {
	s.held--
	s.heldBytes -= h.size
	s.window.settled++
}

// begin forgets what was asked of the server.
func (s *puller) begin(now, pullAfter time.Time) {
	s.asked, s.heard, s.pullAfter = 0, now, pullAfter
}

// onStatus acts on a word of the server: a status about a pull, or an answer.
func (s *puller) onStatus(m *nats.Msg) {
	status := m.Header.Get("Status")
	if status == "" {
		s.onReply(m)
		return
	}
	s.d.mu.Lock()
	s.heard = time.Now()
	if status == "100" { // a pull waits at the consumer
		s.stalled = nil
		s.d.mu.Unlock()
		return
	}
	description := m.Header.Get("Description")
	left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	switch {
	case description == "Consumer Deleted":
		s.goneLocked()
	case err == nil: // the end of a pull, with what it still had to deliver
		s.asked, s.stalled = max(s.asked-left, 0), nil
	default: // nobody there, or a refusal: begin afresh after a while
		s.begin(s.heard, s.heard.Add(retryPull))
		s.doubt = status == noResponders
		s.stallLocked(refusal(status, description))
	}
	s.d.mu.Unlock()
	s.pull()
	s.d.wakeMaintainer()
}

// noResponders is the status of a request that nobody takes.
const noResponders = "503"

// refusal is an error for a status that ends a pull out of turn.
func refusal(status, description string) error {
	if status == noResponders {
		return errors.New("nobody takes the requests for messages: the stream or the consumer is gone, or has no leader")
	}
	return fmt.Errorf("the server refuses to send messages: %s %s", status, description)
}

// stallLocked tells, once, that no messages can be had.
func (s *puller) stallLocked(err error) {
	if s.stalled != nil || s.d.draining {
		return
	}
	s.stalled = err
	s.d.reportLocked(err)
}

// pull asks for messages once half the window is free.
func (s *puller) pull() {
	messages, bytes, doubt := s.want()
	if messages == 0 {
		return
	}
	err := s.ask(messages, bytes)
	if doubt && err == nil {
		err = s.inquire()
	}
	if err == nil {
		return
	}
	now := time.Now()
	s.d.mu.Lock()
	s.begin(now, now.Add(retryPull))
	s.stallLocked(err)
	s.d.mu.Unlock()
	s.d.wakeMaintainer()
}

// want notes as asked, and returns, how many messages there is room for, in how
// many bytes, and whether to ask about the consumer as well. Nothing is asked of a
// server that is not there: requests would pile up until it comes back.
func (s *puller) want() (messages, bytes int, doubt bool) {
	d := s.d
	connected := d.link.Conn().IsConnected()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.draining || d.quiesced || !connected || now.Before(s.pullAfter) {
		return 0, 0, false
	}
	messages, bytes = s.credit(now)
	if messages == 0 {
		return 0, 0, false
	}
	if s.asked == 0 {
		s.heard = now // it may have been long ago that anything was asked
	}
	s.asked += messages
	doubt, s.doubt = s.doubt, false
	return messages, bytes, doubt
}

// credit is how many messages there is room for, in how many bytes. After each answer
// of the server there is room for those without which the barrier stays shut.
func (s *puller) credit(now time.Time) (messages, bytes int) {
	largest := s.d.link.MaxPayload()
	messages, bytes = s.window.room(now, s.here(), s.asked, s.heldBytes, largest)
	if !s.d.keyed() {
		return messages, bytes
	}
	wanted := s.window.hasRoom(s.here(), s.asked)
	if room := s.MaxHeld - s.held - s.asked; room < min(messages, max(s.MaxHeld/8, 1)) {
		messages = 0 // not one at a time
	} else {
		messages = min(messages, room)
	}
	if full := wanted && messages == 0; full != s.full {
		s.full, s.d.crowded = full, true
		s.d.wakeMaintainer()
	}
	if wants := s.barrier.wants(s.asked); wants > messages {
		return wants, max(bytes, 2*largest)
	}
	return messages, bytes
}

func (s *puller) ask(messages, bytes int) error {
	expiry := s.d.pullExpiry()
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Bytes     int           `json:"max_bytes"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{messages, bytes, expiry, min(heartbeat, expiry/2)})
	if err != nil {
		return err
	}
	return s.d.link.Publish(&wire.Out{Subject: s.Next, Reply: s.sub.Subject, Data: body})
}

var errSilent = errors.New("the server has been silent for two heartbeats")

// checkSilence begins afresh when the server has not said anything for long.
func (s *puller) checkSilence(now time.Time) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if s.asked == 0 || now.Sub(s.heard) < 2*heartbeat {
		return
	}
	s.begin(now, time.Time{})
	s.doubt = true
	s.stallLocked(errSilent)
	s.d.wakeMaintainer()
}
