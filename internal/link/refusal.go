package link

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// RefusedError is the error of a subscription, or of a message, that the server refused:
// because of a missing permission, or of its limit of subscriptions.
type RefusedError struct {
	Subject string // of the subscription or the message; with Inbox, of the replies
	Publish bool   // it is about a message; false: about a subscription
	Inbox   bool   // the connection may not receive replies
	Sent    bool   // with Inbox: the request was sent, so it may have been handled
	Err     error  // the server's answer
}

func (e *RefusedError) Error() string {
	what := "the subscription to"
	switch {
	case e.Publish:
		what = "messages to"
	case e.Inbox:
		what = "the subscription to the inbox of replies"
	}
	return fmt.Sprintf("the server refuses %s %q: %v", what, e.Subject, e.Err)
}

// Unwrap returns the server's answer.
func (e *RefusedError) Unwrap() error { return e.Err }

// Refused returns what an error of a connection refuses because of a missing permission. It is
// nil for other errors.
func Refused(err error) *RefusedError {
	if subject := refusedMessage(err); subject != "" {
		return &RefusedError{Subject: subject, Publish: true, Err: err}
	}
	if subject := refusedSubject(err); subject != "" {
		return &RefusedError{Subject: subject, Err: err}
	}
	return nil
}

// RefusalWatch watches for the server's refusal of one subscription, or of messages to one
// subject, from before it is sent until End. Its user sends and flushes between.
//
// The refusal comes before the answer to a flush, but nats.go reports it later, on another
// goroutine. At once nats.go has only the last error of the connection. That error says
// whether there is a report to wait for, and mostly which.
type RefusalWatch struct {
	link           *Link
	publish        bool // it is about messages; false: about a subscription
	subject, group string
	before         error // the connection's last error

	// Guarded by the mu of refusals.
	reported []error       // by nats.go since the watch began
	awaited  error         // the report that Refusal waits for
	arrived  chan struct{} // closed when it is there
	refused  error         // the refusal; nil for none
	early    bool          // refused was read from the last error: nats.go will still report it
}

const (
	// maxReportDelay bounds how long Refusal waits for a report of nats.go. The functions
	// that nats.go reports to may take long.
	maxReportDelay = 2 * time.Second
	// maxSameErrorDelay is the same for errors that are the same value each time: nobody
	// can see whether such an error was reported already.
	maxSameErrorDelay = 250 * time.Millisecond
)

// WatchSubscription begins to watch a subscription. The caller calls End.
func (l *Link) WatchSubscription(subject, group string) *RefusalWatch {
	return l.watch(&RefusalWatch{subject: subject, group: group})
}

// WatchPublish begins to watch messages to subject. The caller calls End.
func (l *Link) WatchPublish(subject string) *RefusalWatch {
	return l.watch(&RefusalWatch{subject: subject, publish: true})
}

func (l *Link) watch(w *RefusalWatch) *RefusalWatch {
	w.link, w.before, w.arrived = l, l.nc.LastError(), make(chan struct{})
	l.refusals.add(w)
	return w
}

// Refusal returns a *RefusedError if the server refused the subscription. It is called once,
// after the server has answered a flush.
func (w *RefusalWatch) Refusal() error {
	last := w.link.nc.LastError()
	same := !errors.Is(last, nats.ErrPermissionViolation)
	full := errors.Is(last, nats.ErrMaxSubscriptionsExceeded) // perhaps once more
	if last == nil || last == w.before && !full {             //nolint:errorlint // whether it is the very same
		return nil
	}
	if w.link.refusals.await(w, last) {
		late := time.NewTimer(maxReportDelay)
		if same {
			late.Reset(maxSameErrorDelay)
		}
		defer late.Stop()
		select {
		case <-w.arrived:
		case <-late.C:
		}
	}
	return w.link.refusals.refusalOf(w)
}

// End ends the watch.
func (w *RefusalWatch) End() { w.link.refusals.remove(w) }

var (
	deniedSubject = regexp.MustCompile(`Subscription to "(\S+)"`)
	deniedGroup   = regexp.MustCompile(`using queue "(\S+)"`)
	deniedPublish = regexp.MustCompile(`Publish to "(\S+)"`)
)

// refusedSubject is the subject of the subscription that err refuses, or "".
func refusedSubject(err error) string {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return ""
	}
	return firstGroup(deniedSubject, err.Error())
}

// refusedMessage is the subject of the message that err refuses, or "".
func refusedMessage(err error) string {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return ""
	}
	return firstGroup(deniedPublish, err.Error())
}

// firstGroup returns what the first group of r matches in text, or "".
func firstGroup(r *regexp.Regexp, text string) string {
	if m := r.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// concerns reports whether err refuses by its name what w watches.
func (w *RefusalWatch) concerns(err error) bool {
	if w.publish {
		return refusedMessage(err) == w.subject
	}
	return refusedSubject(err) == w.subject && firstGroup(deniedGroup, err.Error()) == w.group
}

// refusals are the subscriptions and messages that the server may refuse at this moment.
type refusals struct {
	mu   sync.Mutex
	open map[*RefusalWatch]struct{}
}

// add begins to watch for w.
func (r *refusals) add(w *RefusalWatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = make(map[*RefusalWatch]struct{})
	}
	r.open[w] = struct{}{}
}

// remove forgets w, unless nats.go will still report its refusal. Otherwise that report would
// be taken for one that no call waits for.
func (r *refusals) remove(w *RefusalWatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !w.early {
		delete(r.open, w)
	}
}

// await makes last, the last error of the connection, the refusal of w if it is about w. It
// reports whether w has to wait until nats.go has reported last: the refusal may be an error
// before it.
func (r *refusals) await(w *RefusalWatch, last error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.refused == nil && w.concerns(last) {
		w.refused, w.early = last, true
	}
	if w.refused != nil || slices.Contains(w.reported, last) {
		return false
	}
	w.awaited = last
	return true
}

// refusalOf returns the refusal of w, or nil.
func (r *refusals) refusalOf(w *RefusalWatch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.refused == nil {
		return nil
	}
	return &RefusedError{Subject: w.subject, Publish: w.publish, Err: w.refused}
}

// deliver gives err to the calls that it is about, and reports whether there is one: then
// that call returns err. The server does not say which subscription exceeds its limit, so
// that error is for all that are being made. A missing permission concerns all messages to
// the subject. nats.go's error handler calls it.
func (r *refusals) deliver(err error) (delivered bool) {
	full := errors.Is(err, nats.ErrMaxSubscriptionsExceeded)
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range r.open {
		concerned := !delivered && w.concerns(err) || w.publish && w.concerns(err)
		switch {
		case w.early:
			if concerned {
				delivered = true
				delete(r.open, w)
			}
			continue
		case w.refused == nil && (full && !w.publish || concerned):
			w.refused, delivered = err, true
		}
		w.reported = append(w.reported, err)
		if w.awaited != nil && (w.refused != nil || w.awaited == err) { //nolint:errorlint // whether it is the very same
			w.awaited = nil
			close(w.arrived)
		}
	}
	return delivered
}
