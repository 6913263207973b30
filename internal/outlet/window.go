package outlet

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/telemetry"
)

// ErrWindowFull is returned by Window.Add when the window stayed full.
var ErrWindowFull = errors.New("the window is full")

// Window stores messages in streams. It does not wait for the acknowledgement of one
// message before it sends the next. One subscription receives all acknowledgements. A
// message without an ID is sent once. A message with an ID is sent again whenever its
// acknowledgement is lost, until its deadline.
//
// Messages go out in the order of Add. When the connection is lost, messages with an ID
// and without an answer wait in that order for the next connection. Messages added
// meanwhile wait behind them. Messages of a stream that has no responders wait in that
// order, too; see turn. A message that is sent again for another reason may come after
// later messages.
//
// Each message is inside the gate of the link until its outcome is known, so shutting
// the gate waits for all messages. Goroutines: run, and that of the subscription, from
// the first Add to Close. Safe for concurrent use.
type Window struct {
	out   *Outlet
	slots chan struct{} // holds one element for each outstanding message

	closing  chan struct{} // closed by Close: ends run and unblocks Add
	checkNow chan struct{} // tells run to check earlier than planned
	done     chan struct{} // closed when run has ended

	// mu is held while a message is handed to the connection, so numbers and messages on
	// the wire have the same order.
	mu          sync.Mutex
	prefix      string             // of the reply subjects
	sub         *nats.Subscription // to the replies; nil before the first Add
	states      chan nats.Status
	unhook      func()
	foundLost   bool // a write found the connection lost, and nats.go has not reported it yet
	lastNumber  uint64
	outstanding futureList
	byNumber    map[uint64]*Future
	turns       map[string]*turn // by stream
	held        int
	nextCheck   time.Time // when run checks at the latest; zero: not planned
	flushes     []flushMarker
	counting    bool // StartCounting was called
	unsure      int  // messages since then that may not be stored
	ended       bool
	finished    []*Future // have their outcome; unlock ends their spans
}

// flushMarker belongs to one Flush. reached is closed when all messages up to number have
// their outcome.
type flushMarker struct {
	number  uint64
	reached chan struct{}
}

// NewWindow returns a window for size messages that sends through o.
func NewWindow(o *Outlet, size int) *Window {
	return &Window{
		out: o, slots: make(chan struct{}, size), byNumber: make(map[uint64]*Future), turns: make(map[string]*turn),
		closing: make(chan struct{}), checkNow: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// Add sends the message of f. Without a connection the message is sent as soon as there
// is one. While the gate is held or the window is full Add waits, until ctx ends or f's deadline has passed; then
// it returns an error with the reason, ErrWindowFull where the window was full. After an error f gets no outcome. After Add
// returns, the end of ctx has no effect on the message.
func (w *Window) Add(ctx context.Context, f *Future) error {
	m := &f.Message
	if err := w.passGate(ctx, f.Deadline); err != nil {
		return w.out.count(m, err)
	}
	err := w.takeSlot(ctx, f.Deadline)
	if err == nil {
		ctx, f.span = w.out.tel.Send(ctx, w.out.operation(telemetry.OpStore, m))
		w.out.inject(ctx, m)
		err = w.addNew(ctx, f)
	}
	if err != nil {
		f.span.End(err)
		w.out.link.Leave()
		return w.out.count(m, err)
	}
	return nil
}

// addNew is add, unless the message is known as a duplicate. Then f has its outcome at once.
func (w *Window) addNew(ctx context.Context, f *Future) error {
	if w.out.moved.Load() == nil || f.Message.ID == "" {
		return w.add(f)
	}
	ask, cancel := context.WithDeadline(ctx, f.Deadline)
	defer cancel()
	ack, known, err := w.out.duplicate(ask, f.Message.Stream, f.Message.ID)
	if err != nil {
		<-w.slots
		return err
	}
	if known {
		w.endDuplicate(f, ack)
		return nil
	}
	return w.add(f)
}

// endDuplicate sets the outcome of f, which has a slot and was not sent.
func (w *Window) endDuplicate(f *Future, ack Ack) {
	_ = w.out.count(&f.Message, nil)
	f.Message.Data, f.Message.Header = nil, nil
	f.end(ack, nil)
	<-w.slots
	f.span.End(nil)
	f.span = telemetry.Span{}
	w.out.link.Leave()
}

// passGate enters the gate. While that is held it waits until ctx ends or the deadline.
func (w *Window) passGate(ctx context.Context, deadline time.Time) error {
	if err := w.out.link.TryEnter(); !errors.Is(err, link.ErrHeld) {
		return err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return w.out.link.Enter(ctx)
}

// takeSlot takes a slot of the window and waits for one if the window is full.
func (w *Window) takeSlot(ctx context.Context, deadline time.Time) error {
	select {
	case w.slots <- struct{}{}:
		return nil
	default:
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	select {
	case w.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrWindowFull, ctx.Err())
	case <-w.closing:
		return ErrEnded
	}
}

// add sends or holds f, which has a slot. If it fails it returns the slot.
func (w *Window) add(f *Future) error {
	w.mu.Lock()
	defer w.unlock()
	if err := w.startLocked(); err != nil {
		<-w.slots
		return err
	}
	w.lastNumber++
	f.number = w.lastNumber
	f.turn = w.turnLocked(f.Message.Stream)
	if connected := w.readStatesLocked(); !connected || w.held > 0 {
		w.holdLocked(f)
	} else if f.turn.waiting > 0 || f.turn.mustWait(f, w.out.attemptTimeout) {
		w.waitLocked(f)
	} else if err := w.sendLocked(f); err != nil {
		w.endedLocked(f)
		<-w.slots
		return err
	}
	w.outstanding.push(f)
	w.byNumber[f.number] = f
	w.scheduleLocked(f)
	return nil
}

// startLocked makes the subscription and starts run at the first Add.
func (w *Window) startLocked() error {
	switch {
	case w.ended:
		return ErrEnded
	case w.sub != nil:
		return nil
	}
	nc := w.out.link.Conn()
	w.prefix = nc.NewInbox() + "."
	sub, err := nc.Subscribe(w.prefix+"*", w.onReply)
	if err != nil {
		return err
	}
	w.sub = sub
	w.unhook = w.out.link.OnDenied("", w.onDenied)
	w.states = nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	go w.run()
	return nil
}

// holdLocked makes f wait for the next connection.
func (w *Window) holdLocked(f *Future) {
	w.unholdLocked(f)
	w.held++
	f.held, f.unanswered = true, false
	f.nextSend = time.Now().Add(attemptPause)
}

// sendLocked hands f to the connection.
func (w *Window) sendLocked(f *Future) error {
	w.unholdLocked(f)
	f.turn.sent(f)
	m := &f.Message
	if m.Reply == "" {
		m.Reply = w.prefix + strconv.FormatUint(f.number, 36)
	}
	f.nextSend = time.Time{}
	if m.isRepeatable() {
		f.nextSend = time.Now().Add(w.out.attemptTimeout)
	}
	f.attempts.begin(w.out.link.Conn(), m)
	err := w.out.publish(m)
	if isUnsent(err) {
		w.foundLost = true
		w.holdLocked(f)
		return nil
	}
	f.unanswered = err == nil
	return err
}

// onReply handles the answer to one message. nats.go calls it on the goroutine of the
// subscription.
func (w *Window) onReply(reply *nats.Msg) {
	number, err := strconv.ParseUint(reply.Subject[len(w.prefix):], 36, 64)
	if err != nil {
		return // not a reply to a message of this window
	}
	ack, err := parseReply(reply)
	w.mu.Lock()
	defer w.unlock()
	f := w.byNumber[number]
	if f == nil {
		return // it has its outcome already
	}
	missed := errors.Is(err, nats.ErrNoResponders)
	if missed {
		w.missedLocked(f)
	} else {
		w.answeredLocked(f)
	}
	again, err := f.attempts.decide(&f.Message, err)
	switch {
	case !again:
		w.endLocked(f, ack, err)
		return
	case f.held:
		return
	case missed:
		w.waitLocked(f)
	default:
		f.unanswered, f.nextSend = false, time.Now().Add(attemptPause)
	}
	w.scheduleLocked(f)
}

// parseReply is parseAck for a reply that nats.go has not checked for missing responders.
func parseReply(reply *nats.Msg) (Ack, error) {
	if len(reply.Data) == 0 && reply.Header.Get("Status") == "503" {
		return Ack{}, nats.ErrNoResponders
	}
	return parseAck(reply)
}

// endLocked sets the outcome of f, frees its payload and its slot, and reaches the markers of
// Flush that waited for it.
func (w *Window) endLocked(f *Future, ack Ack, err error) {
	w.unholdLocked(f)
	w.endedLocked(f)
	delete(w.byNumber, f.number)
	w.outstanding.remove(f)
	if _, refused := errors.AsType[*jserr.Refusal](err); w.counting && err != nil && (!refused || f.attempts.maybeStored) {
		w.unsure++
	}
	_ = w.out.count(&f.Message, err)
	f.Message.Data, f.Message.Header = nil, nil // a program may keep its futures
	f.end(ack, err)
	for len(w.flushes) > 0 && (w.outstanding.first == nil || w.outstanding.first.number > w.flushes[0].number) {
		close(w.flushes[0].reached)
		w.flushes = w.flushes[1:]
	}
	<-w.slots
	if w.out.tel == nil {
		w.out.link.Leave()
		return
	}
	w.finished = append(w.finished, f)
}

// unlock unlocks mu and then ends the spans of the messages that got their outcome.
// Ending a span runs code of the program, so no lock is held.
func (w *Window) unlock() {
	finished := w.finished
	w.finished = nil
	w.mu.Unlock()
	for _, f := range finished {
		f.span.End(f.err)
		f.span = telemetry.Span{} // it has the context of the call
		w.out.link.Leave()
	}
}

// Pending returns how many messages are outstanding.
func (w *Window) Pending() int { return len(w.slots) }

// Flush waits until every message that was added before has its outcome, stored or not.
// It returns the error of ctx if ctx ends first.
func (w *Window) Flush(ctx context.Context) error {
	w.mu.Lock()
	if w.outstanding.first == nil {
		w.mu.Unlock()
		return nil
	}
	m := flushMarker{number: w.lastNumber, reached: make(chan struct{})}
	w.flushes = append(w.flushes, m)
	w.mu.Unlock()
	select {
	case <-m.reached:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
