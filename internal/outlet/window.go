package outlet

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/telemetry"
)

// ErrNoRoom is returned by Window.Add when the window was full for too long.
var ErrNoRoom = errors.New("the window is full")

// Window stores messages of streams without waiting for one acknowledgement before
// it sends the next. Their answers come to one subscription. A message without an ID
// is sent once; one with an ID again whenever its answer is lost, until its deadline.
//
// Messages go out in the order of Add. When the connection is lost, those with an ID
// that have no answer wait in that order for the next one, and whatever is added
// meanwhile waits behind them; a repetition for another reason may come after later
// messages.
//
// Each message is inside the gate until its outcome is there, so shutting that waits
// for all. Goroutines: run, and that of the subscription, from the first Add to Close.
// Safe for concurrent use.
type Window struct {
	out  *Outlet
	room chan struct{} // has one for each message that is outstanding

	closing chan struct{} // unblocks who waits for room
	nudge   chan struct{} // run has to look earlier than it knows
	done    chan struct{} // run has ended

	// mu is held while a message is handed to the connection: the order of the
	// numbers is that on the wire.
	mu       sync.Mutex
	prefix   string             // of reply subjects
	sub      *nats.Subscription // to them; nil before the first Add
	states   chan nats.Status
	lost     bool // a write has found so, and nats.go has not said it yet
	numbers  uint64
	list     receipts
	byNumber map[uint64]*Receipt
	held     int
	wake     time.Time // when run looks at the latest; zero: it does not
	marks    []mark
	counting bool // Ending was called
	left     int  // messages since then that ended without certainty
	ended    bool
	over     []*Receipt // have their outcome, and spans that unlock ends
}

// mark is of a Flush: closed when all messages up to number have their outcome.
type mark struct {
	number  uint64
	reached chan struct{}
}

// NewWindow returns a window for size messages that sends through o.
func NewWindow(o *Outlet, size int) *Window {
	return &Window{
		out: o, room: make(chan struct{}, size), byNumber: make(map[uint64]*Receipt),
		closing: make(chan struct{}), nudge: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// Add sends the message of r, or has it sent as soon as there is a connection. A
// full window makes it wait until ctx ends or r's deadline, then it is ErrNoRoom with
// the reason. After an error there will be no outcome. ctx has no say in what comes
// after Add.
func (w *Window) Add(ctx context.Context, r *Receipt) error {
	m := &r.Message
	if err := w.out.link.Enter(); err != nil {
		return w.out.sent(m, err)
	}
	err := w.enter(ctx, r.Deadline)
	if err == nil {
		ctx, r.span = w.out.tel.Send(ctx, w.out.operation(telemetry.OpStore, m))
		w.out.inject(ctx, m)
		err = w.add(r)
	}
	if err != nil {
		r.span.End(err)
		w.out.link.Leave()
		return w.out.sent(m, err)
	}
	return nil
}

// enter takes a place.
func (w *Window) enter(ctx context.Context, deadline time.Time) error {
	select {
	case w.room <- struct{}{}:
		return nil
	default:
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	select {
	case w.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNoRoom, ctx.Err())
	case <-w.closing:
		return ErrEnded
	}
}

// add sends or holds r, which has a place, and gives that back if it cannot.
func (w *Window) add(r *Receipt) error {
	w.mu.Lock()
	defer w.unlock()
	if err := w.beginLocked(); err != nil {
		<-w.room
		return err
	}
	w.numbers++
	r.number = w.numbers
	if connected := w.catchUpLocked(); !connected || w.held > 0 {
		w.holdLocked(r)
	} else if err := w.sendLocked(r); err != nil {
		<-w.room
		return err
	}
	w.list.push(r)
	w.byNumber[r.number] = r
	w.lookByLocked(r)
	return nil
}

// beginLocked starts what the first Add needs.
func (w *Window) beginLocked() error {
	switch {
	case w.ended:
		return ErrEnded
	case w.sub != nil:
		return nil
	}
	nc := w.out.link.Conn()
	w.prefix = nc.NewInbox() + "."
	sub, err := nc.Subscribe(w.prefix+"*", w.answered)
	if err != nil {
		return err
	}
	w.sub = sub
	w.states = nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	go w.run()
	return nil
}

// holdLocked has r wait for the connection.
func (w *Window) holdLocked(r *Receipt) {
	r.held, r.sent = true, false
	r.again = time.Now().Add(betweenTries)
	w.held++
}

// sendLocked hands r to the connection.
func (w *Window) sendLocked(r *Receipt) error {
	if r.held {
		r.held = false
		w.held--
	}
	m := &r.Message
	if m.Reply == "" {
		m.Reply = w.prefix + strconv.FormatUint(r.number, 36)
	}
	r.again = time.Time{}
	if m.repeatable() {
		r.again = time.Now().Add(w.out.longestTry)
	}
	err := w.out.publish(m)
	if unsent(err) {
		w.lost = true
		w.holdLocked(r)
		return nil
	}
	r.sent = err == nil
	return err
}

// answered takes the answer to one message.
func (w *Window) answered(reply *nats.Msg) {
	number, err := strconv.ParseUint(reply.Subject[len(w.prefix):], 36, 64)
	if err != nil {
		return // not ours
	}
	ack, err := readAnswer(reply)
	w.mu.Lock()
	defer w.unlock()
	r := w.byNumber[number]
	if r == nil {
		return // it has its outcome
	}
	again, err := r.tries.judge(&r.Message, err)
	if !again {
		w.endLocked(r, ack, err)
		return
	}
	if !r.held {
		r.sent, r.again = false, time.Now().Add(betweenTries)
		w.lookByLocked(r)
	}
}

// readAnswer is parseAck for what nobody has looked at before.
func readAnswer(reply *nats.Msg) (Ack, error) {
	if len(reply.Data) == 0 && reply.Header.Get("Status") == "503" {
		return Ack{}, nats.ErrNoResponders
	}
	return parseAck(reply)
}

// endLocked sets the outcome of r.
func (w *Window) endLocked(r *Receipt, ack Ack, err error) {
	if r.held {
		w.held--
	}
	delete(w.byNumber, r.number)
	w.list.remove(r)
	if _, refused := errors.AsType[*StoreError](err); w.counting && err != nil && (!refused || r.tries.doubt) {
		w.left++
	}
	_ = w.out.sent(&r.Message, err)
	r.end(ack, err)
	for len(w.marks) > 0 && (w.list.first == nil || w.list.first.number > w.marks[0].number) {
		close(w.marks[0].reached)
		w.marks = w.marks[1:]
	}
	<-w.room
	if w.out.tel == nil {
		w.out.link.Leave()
		return
	}
	w.over = append(w.over, r)
}

// unlock unlocks mu and ends the spans of the messages that have their outcome. That
// runs what the program gave for them, so nothing is locked.
func (w *Window) unlock() {
	over := w.over
	w.over = nil
	w.mu.Unlock()
	for _, r := range over {
		r.span.End(r.err)
		w.out.link.Leave()
	}
}

// Pending returns how many messages are outstanding, or wait in Add.
func (w *Window) Pending() int { return len(w.room) }

// Flush waits until every message that was added before has its outcome, whatever
// that is. It returns the error of ctx when that ends first.
func (w *Window) Flush(ctx context.Context) error {
	w.mu.Lock()
	if w.list.first == nil {
		w.mu.Unlock()
		return nil
	}
	m := mark{number: w.numbers, reached: make(chan struct{})}
	w.marks = append(w.marks, m)
	w.mu.Unlock()
	select {
	case <-m.reached:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
