package outlet

import (
	"context"
	"errors"
	"time"
)

// mustAskLocked reports whether the stream must be asked before f is sent again.
func (w *Window) mustAskLocked(f *Future) bool {
	return !f.remembered && f.attempts.mayBeForgotten(w.out.link.Conn(), &f.Message)
}

// checkRemembered asks the streams about the held messages whose IDs may be forgotten. It
// ends those whose IDs are. run calls it.
func (w *Window) checkRemembered() {
	held, earliest := w.mustAsk()
	if len(held) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.out.attemptTimeout)
	defer cancel()
	go func() {
		select {
		case <-w.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	server := w.out.link.Conn().ConnectedServerId()
	keeps := make(map[string]bool)
	for stream, began := range earliest {
		var err error
		if keeps[stream], err = w.out.keepsSince(ctx, stream, began); err != nil {
			return // the next check asks again
		}
	}
	for _, f := range held {
		var err error
		if !keeps[f.Message.Stream] {
			err = w.out.checkFound(ctx, &f.Message)
		}
		w.remember(f, server, err)
	}
}

// mustAsk returns the held messages whose streams must be asked, and for each stream when
// the first attempt of the earliest of them began.
func (w *Window) mustAsk() (held []*Future, earliest map[string]time.Time) {
	w.mu.Lock()
	defer w.unlock()
	if w.held == 0 || !w.readStatesLocked() {
		return nil, nil
	}
	earliest = make(map[string]time.Time)
	for f := w.outstanding.first; f != nil; f = f.next {
		if !f.held || !w.mustAskLocked(f) {
			continue
		}
		held = append(held, f)
		if t, ok := earliest[f.Message.Stream]; !ok || f.attempts.began.Before(t) {
			earliest[f.Message.Stream] = f.attempts.began
		}
	}
	return held, earliest
}

// remember records what the stream of f said: nil if f may be sent again, ErrForgotten if
// not. After any other error it is asked again.
func (w *Window) remember(f *Future, server string, err error) {
	w.mu.Lock()
	defer w.unlock()
	switch {
	case w.byNumber[f.number] != f: // it has its outcome
	case err == nil:
		f.attempts.server, f.remembered = server, true
	case errors.Is(err, ErrForgotten):
		w.endLocked(f, Ack{}, f.attempts.wrapUnknown(err))
	}
}
