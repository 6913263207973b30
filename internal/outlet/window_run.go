package outlet

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
)

// idleCheck is how long run sleeps when there is nothing to do. Add wakes it.
const idleCheck = time.Hour

// run is the goroutine that sends messages again and ends those whose deadline has passed.
func (w *Window) run() {
	defer close(w.done)
	timer := time.NewTimer(idleCheck)
	defer timer.Stop()
	for {
		select {
		case s := <-w.states:
			w.mu.Lock()
			w.setStateLocked(s)
			w.unlock()
		case <-timer.C:
		case <-w.checkNow:
		case <-w.closing:
			return
		}
		timer.Reset(w.check())
	}
}

// scheduleLocked makes run check f when it is due, or earlier.
func (w *Window) scheduleLocked(f *Future) {
	w.scheduleAtLocked(f.nextCheck())
}

// scheduleAtLocked makes run check at due, or earlier.
func (w *Window) scheduleAtLocked(due time.Time) {
	if !w.nextCheck.IsZero() && !due.Before(w.nextCheck) {
		return
	}
	w.nextCheck = due
	select {
	case w.checkNow <- struct{}{}:
	default:
	}
}

// nextCheck returns when run has to send or end f.
func (f *Future) nextCheck() time.Time {
	if f.nextSend.IsZero() || f.Deadline.Before(f.nextSend) {
		return f.Deadline
	}
	return f.nextSend
}

// check does what is due, and returns how long run may sleep.
func (w *Window) check() time.Duration {
	w.checkRemembered()
	w.mu.Lock()
	defer w.unlock()
	connected := w.readStatesLocked()
	now := time.Now()
	w.nextCheck = time.Time{}
	if connected {
		w.chooseLocked(now)
	}
	for f := w.outstanding.first; f != nil; {
		next := f.next
		connected = connected && (!f.held || !w.mustAskLocked(f)) // those behind f keep their place
		if err := w.checkLocked(f, now, connected); err != nil {
			w.endLocked(f, Ack{}, err)
		} else if due := f.nextCheck(); w.nextCheck.IsZero() || due.Before(w.nextCheck) {
			w.nextCheck = due
		}
		f = next
	}
	if w.nextCheck.IsZero() {
		return idleCheck
	}
	return w.nextCheck.Sub(now)
}

// checkLocked sends f again if it is due. It returns the error with which f ends, if it
// ends.
func (w *Window) checkLocked(f *Future, now time.Time, connected bool) error {
	switch waits := f.held || f.waits; {
	case !now.Before(f.Deadline):
		return f.timeoutError(context.DeadlineExceeded)
	case !waits && (f.nextSend.IsZero() || now.Before(f.nextSend)):
		return nil
	case !connected:
		f.nextSend = now.Add(attemptPause)
		return nil
	}
	f.attempts.maybeStored = f.attempts.maybeStored || f.unanswered
	if f.turn.mustWait(f, w.out.attemptTimeout) && !f.isLastTry() {
		w.waitLocked(f)
		return nil
	}
	if w.mustAskLocked(f) {
		w.holdLocked(f)
		return nil
	}
	f.remembered = false
	if err := w.sendLocked(f); err != nil {
		return f.attempts.wrapUnknown(err)
	}
	return nil
}

// timeoutError returns the error of f when the window stops waiting for its answer.
func (f *Future) timeoutError(why error) error {
	f.attempts.maybeStored = f.attempts.maybeStored || f.unanswered
	return f.attempts.wrapUnknown(why)
}

// readStatesLocked handles all changes of the connection that nats.go has reported, and
// reports whether there is a connection now. nats.go reports a change at the moment it
// happens. So a message that is sent after this call is not mistaken for one that was
// lost with an earlier connection.
func (w *Window) readStatesLocked() (connected bool) {
	for {
		connected = w.out.link.Conn().IsConnected()
		select {
		case s := <-w.states:
			w.setStateLocked(s)
		default:
			return connected && !w.foundLost
		}
	}
}

// setStateLocked handles one change of the connection. The answers are lost with the
// connection: messages with an ID wait for the next one, and the outcome of the others
// is unknown. The next check sends what is held.
func (w *Window) setStateLocked(s nats.Status) {
	if s == nats.CONNECTED {
		return
	}
	w.foundLost = false
	w.resetTurnsLocked()
	for f := w.outstanding.first; f != nil; {
		next := f.next
		switch {
		case s == nats.CLOSED:
			w.endLocked(f, Ack{}, f.timeoutError(nats.ErrConnectionClosed))
		case !f.unanswered:
		case f.Message.isRepeatable():
			f.attempts.maybeStored = true
			w.holdLocked(f)
		default:
			w.endLocked(f, Ack{}, fmt.Errorf("%w: %w", ErrUnknown, nats.ErrDisconnected))
		}
		f = next
	}
}

// onDenied ends the messages that the server refuses, or whose answers it refuses. It reports
// whether there are any. nats.go's error handler calls it.
func (w *Window) onDenied(e *link.RefusedError) (taken bool) {
	w.mu.Lock()
	defer w.unlock()
	for f := w.outstanding.first; f != nil; {
		next := f.next
		if f.unanswered && (e.Inbox || f.Message.Subject == e.Subject) {
			_, err := f.attempts.decide(&f.Message, e)
			w.endLocked(f, Ack{}, err)
			taken = true
		}
		f = next
	}
	return taken
}

// StartCounting makes Close count the messages that end from now on.
func (w *Window) StartCounting() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counting = true
}

// Close ends every outstanding message and the goroutines. It returns how many messages
// since StartCounting may not be stored, except those that their stream refused. Call it
// once, when the gate is shut.
func (w *Window) Close() (unsent int) {
	w.mu.Lock()
	w.ended = true
	for f := w.outstanding.first; f != nil; f = w.outstanding.first {
		w.endLocked(f, Ack{}, f.timeoutError(ErrEnded))
	}
	sub, unsent := w.sub, w.unsure
	w.unlock()
	close(w.closing)
	if sub != nil {
		<-w.done
		w.unhook()
		w.out.link.Conn().RemoveStatusListener(w.states)
		_ = sub.Unsubscribe() // of a connection that is about to be closed
	}
	return unsent
}
