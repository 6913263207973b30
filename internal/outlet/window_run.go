package outlet

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// idle is how long run sleeps when there is nothing to look at; whoever adds
// something wakes it.
const idle = time.Hour

// run sends messages again, and ends those whose time is over.
func (w *Window) run() {
	defer close(w.done)
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case s := <-w.states:
			w.mu.Lock()
			w.noteLocked(s)
			w.unlock()
		case <-timer.C:
		case <-w.nudge:
		case <-w.closing:
			return
		}
		timer.Reset(w.look())
	}
}

// lookByLocked has run look when r's time comes, at the latest.
func (w *Window) lookByLocked(r *Receipt) {
	due := r.due()
	if !w.wake.IsZero() && !due.Before(w.wake) {
		return
	}
	w.wake = due
	select {
	case w.nudge <- struct{}{}:
	default:
	}
}

// due is when run has to do something about r.
func (r *Receipt) due() time.Time {
	if r.again.IsZero() || r.Deadline.Before(r.again) {
		return r.Deadline
	}
	return r.again
}

// look does what is due and returns how long nothing will be.
func (w *Window) look() time.Duration {
	w.mu.Lock()
	defer w.unlock()
	connected := w.catchUpLocked()
	now := time.Now()
	w.wake = time.Time{}
	for r := w.list.first; r != nil; {
		next := r.next
		if err := w.lookAtLocked(r, now, connected); err != nil {
			w.endLocked(r, Ack{}, err)
		} else if due := r.due(); w.wake.IsZero() || due.Before(w.wake) {
			w.wake = due
		}
		r = next
	}
	if w.wake.IsZero() {
		return idle
	}
	return w.wake.Sub(now)
}

// lookAtLocked sends r again if it is time. It returns the error with which r ends.
func (w *Window) lookAtLocked(r *Receipt, now time.Time, connected bool) error {
	switch {
	case !now.Before(r.Deadline):
		return r.unanswered(context.DeadlineExceeded)
	case r.held && connected:
	case r.again.IsZero() || now.Before(r.again):
		return nil
	case !connected:
		r.again = now.Add(betweenTries)
		return nil
	}
	r.tries.doubt = r.tries.doubt || r.sent
	if err := w.sendLocked(r); err != nil {
		return r.tries.doubted(err)
	}
	return nil
}

// unanswered is the error of r when nobody waits for its answer any longer.
func (r *Receipt) unanswered(why error) error {
	r.tries.doubt = r.tries.doubt || r.sent
	return r.tries.doubted(why)
}

// catchUpLocked reports whether there is a connection, after it has taken note of what
// became of the ones before: nats.go tells of a state in the moment in which it has
// it. So what is sent then is not taken for lost with an earlier connection.
func (w *Window) catchUpLocked() (connected bool) {
	for {
		connected = w.out.link.Conn().IsConnected()
		select {
		case s := <-w.states:
			w.noteLocked(s)
		default:
			return connected && !w.lost
		}
	}
}

// noteLocked takes a new state of the connection. With a lost one the answers are
// lost: what has an ID waits for the next connection, of the rest the outcome is
// unknown. What is held goes out with the next look.
func (w *Window) noteLocked(s nats.Status) {
	if s == nats.CONNECTED {
		return
	}
	w.lost = false
	for r := w.list.first; r != nil; {
		next := r.next
		switch {
		case s == nats.CLOSED:
			w.endLocked(r, Ack{}, r.unanswered(nats.ErrConnectionClosed))
		case !r.sent:
		case r.Message.repeatable():
			r.tries.doubt = true
			w.holdLocked(r)
		default:
			w.endLocked(r, Ack{}, fmt.Errorf("%w: %w", ErrUnknown, nats.ErrDisconnected))
		}
		r = next
	}
}

// Ending has Close count from now on.
func (w *Window) Ending() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counting = true
}

// Close ends every message that is outstanding, and the goroutines. It returns how
// many messages since Ending may not be stored for another reason than that their
// stream refused them. Call it once, when the gate is shut.
func (w *Window) Close() (unsent int) {
	w.mu.Lock()
	w.ended = true
	for r := w.list.first; r != nil; r = w.list.first {
		w.endLocked(r, Ack{}, r.unanswered(ErrEnded))
	}
	sub, unsent := w.sub, w.left
	w.unlock()
	close(w.closing)
	if sub != nil {
		<-w.done
		w.out.link.Conn().RemoveStatusListener(w.states)
		_ = sub.Unsubscribe() // of a connection that is about to be closed
	}
	return unsent
}
