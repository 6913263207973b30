package outlet

import "time"

// turn keeps the order of the messages of one stream when nobody answers for it. A stream
// has no responders for a moment after it was made, and while it has no leader. A message
// that was sent in that moment must be sent again. Without a turn it would be stored after
// later ones.
//
// Either the stream answers, or one message is out and all others wait. That message is
// sent again until the stream answers. Then the others go out in the order of Add. Of the
// messages that are out when a leader is lost, some may still be stored before earlier ones.
//
// A stream that gives no answer at all is waited for no longer than one attempt may take.
// The lock of the window guards a turn.
type turn struct {
	answers bool
	waiting int                  // so many messages wait
	missing map[string]time.Time // subjects without a responder, and since when

	// These belong to a stream that does not answer.
	first *Future   // is out, or goes out next; nil if no message does
	asked time.Time // since when no answer of any kind came; zero if nothing is out
	away  time.Time // since when the stream has no responders; zero if that is not known
	retry time.Time // when the next message may be first
}

// maxMissing limits how many subjects a turn remembers as missing.
const maxMissing = 100

// turnLocked returns the turn of a stream.
func (w *Window) turnLocked(stream string) *turn {
	t := w.turns[stream]
	if t == nil {
		t = &turn{missing: make(map[string]time.Time)}
		w.turns[stream] = t
	}
	return t
}

// resetTurnsLocked forgets which streams answer. The server of the next connection may not
// know their leaders yet.
func (w *Window) resetTurnsLocked() {
	for _, t := range w.turns {
		clear(t.missing)
		*t = turn{waiting: t.waiting, missing: t.missing}
	}
}

// mustWait reports whether f may not go out now. limit is how long one attempt may take.
func (t *turn) mustWait(f *Future, limit time.Duration) bool {
	switch {
	case t.answers, t.first == f, !t.asked.IsZero() && time.Since(t.asked) >= limit:
		return false
	}
	return t.first != nil || t.waiting > 0
}

// sent notes that a message goes out.
func (t *turn) sent(f *Future) {
	if t.answers {
		return
	}
	if t.first == nil {
		t.first = f
	}
	if t.asked.IsZero() {
		t.asked = time.Now()
	}
}

// isLastTry reports whether f has waited for responders as long as it may. Then it goes out
// once more: its subject may have some.
func (f *Future) isLastTry() bool {
	return f.waits && !f.turn.away.IsZero() && !f.attempts.mayFindResponder()
}

// waitLocked makes f wait until its stream answers.
func (w *Window) waitLocked(f *Future) {
	w.unholdLocked(f)
	f.waits, f.unanswered = true, false
	f.turn.waiting++
	f.nextSend = time.Now().Add(attemptPause)
	f.attempts.clustered = w.out.link.Conn().ConnectedClusterName() != ""
}

// unholdLocked ends the waiting of f, for a connection or for its stream.
func (w *Window) unholdLocked(f *Future) {
	if f.held {
		f.held = false
		w.held--
	}
	if f.waits {
		f.waits = false
		f.turn.waiting--
	}
}

// answeredLocked notes that the stream answered f. The next check sends those that wait.
func (w *Window) answeredLocked(f *Future) {
	t := f.turn
	if len(t.missing) > 0 {
		delete(t.missing, f.Message.Subject)
	}
	if !t.answers {
		*t = turn{answers: true, waiting: t.waiting, missing: t.missing}
		w.checkNowLocked(t)
	}
}

// missedLocked notes that f had no responders.
func (w *Window) missedLocked(f *Future) {
	now, t := time.Now(), f.turn
	t.missed(f.Message.Subject, now)
	switch t.first {
	case nil, f:
		t.first, t.asked = nil, time.Time{}
	default:
		t.asked = now // later ones wait again
	}
}

// missed notes that a subject had no responders.
func (t *turn) missed(subject string, now time.Time) {
	t.answers, t.retry = false, now.Add(attemptPause)
	if t.away.IsZero() {
		t.away = now
	}
	if len(t.missing) == maxMissing {
		clear(t.missing)
	}
	if t.missing[subject].IsZero() {
		t.missing[subject] = now
	}
}

// isGone reports whether the stream may have lost a subject: it is missing for longer than
// a stream needs to begin.
func (t *turn) isGone(subject string, now time.Time) bool {
	since, missing := t.missing[subject]
	return missing && (now.Sub(since) >= maxUnavailable || now.Sub(t.away) >= maxUnavailable)
}

// endedLocked notes that f is not out any more.
func (w *Window) endedLocked(f *Future) {
	if t := f.turn; t.first == f {
		t.first = nil
		w.checkNowLocked(t)
	}
}

// checkNowLocked makes run look at the messages of t that wait.
func (w *Window) checkNowLocked(t *turn) {
	if t.waiting > 0 {
		w.scheduleAtLocked(time.Now())
	}
}

// chooseLocked chooses the next message of each stream that does not answer.
func (w *Window) chooseLocked(now time.Time) {
	for _, t := range w.turns {
		if !t.answers && t.first == nil && t.waiting > 0 && !now.Before(t.retry) {
			t.first = w.earliestLocked(t, now)
		}
	}
}

// earliestLocked returns the earliest of the messages of t. It passes over a subject that
// the stream may have lost, if there is another: that must not keep the others for long.
func (w *Window) earliestLocked(t *turn, now time.Time) (earliest *Future) {
	for f := w.outstanding.first; f != nil; f = f.next {
		if f.turn != t || !f.held && !f.waits {
			continue
		}
		if !t.isGone(f.Message.Subject, now) {
			return f
		}
		if earliest == nil {
			earliest = f
		}
	}
	return earliest
}
