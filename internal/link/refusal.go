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

// RefusedError is the error of a subscription that the server refused, because of a missing
// permission or of its limit of subscriptions.
type RefusedError struct {
	Subject string
	Err     error // the server's answer
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the server refuses the subscription to %q: %v", e.Subject, e.Err)
}

// Unwrap returns the server's answer.
func (e *RefusedError) Unwrap() error { return e.Err }

// Opening watches for the server's refusal of one subscription, from before it is sent until
// End. Core.Open of internal/intake uses it.
//
// The refusal comes before the answer to a flush, but nats.go reports it later, on another
// goroutine. At once nats.go has only the last error of the connection. That error says
// whether there is a report to wait for, and mostly which.
type Opening struct {
	link           *Link
	subject, group string
	before         error // the connection's last error

	// Guarded by the mu of refusals.
	reported []error       // by nats.go since the subscription began
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

// Opening begins to watch. The caller calls End.
func (l *Link) Opening(subject, group string) *Opening {
	o := &Opening{link: l, subject: subject, group: group, before: l.nc.LastError(), arrived: make(chan struct{})}
	l.refusals.add(o)
	return o
}

// Refusal returns a *RefusedError if the server refused the subscription. It is called once,
// after the server has answered a flush.
func (o *Opening) Refusal() error {
	last := o.link.nc.LastError()
	same := !errors.Is(last, nats.ErrPermissionViolation)
	full := errors.Is(last, nats.ErrMaxSubscriptionsExceeded) // perhaps once more
	if last == nil || last == o.before && !full {             //nolint:errorlint // whether it is the very same
		return nil
	}
	if o.link.refusals.await(o, last) {
		late := time.NewTimer(maxReportDelay)
		if same {
			late.Reset(maxSameErrorDelay)
		}
		defer late.Stop()
		select {
		case <-o.arrived:
		case <-late.C:
		}
	}
	return o.link.refusals.refusalOf(o)
}

// End ends the watch.
func (o *Opening) End() { o.link.refusals.remove(o) }

var (
	deniedSubject = regexp.MustCompile(`Subscription to "(\S+)"`)
	deniedGroup   = regexp.MustCompile(`using queue "(\S+)"`)
)

// refusedSubject is the subject of the subscription that err refuses, or "".
func refusedSubject(err error) string {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return ""
	}
	return firstGroup(deniedSubject, err.Error())
}

// firstGroup returns what the first group of r matches in text, or "".
func firstGroup(r *regexp.Regexp, text string) string {
	if m := r.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// concerns reports whether err refuses o's subscription by its name.
func (o *Opening) concerns(err error) bool {
	return refusedSubject(err) == o.subject && firstGroup(deniedGroup, err.Error()) == o.group
}

// refusals are the subscriptions that the server may refuse at this moment.
type refusals struct {
	mu   sync.Mutex
	open map[*Opening]struct{}
}

// add begins to watch for o.
func (r *refusals) add(o *Opening) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = make(map[*Opening]struct{})
	}
	r.open[o] = struct{}{}
}

// remove forgets o, unless nats.go will still report its refusal. Otherwise that report would
// be taken for one that no call waits for.
func (r *refusals) remove(o *Opening) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !o.early {
		delete(r.open, o)
	}
}

// await makes last, the last error of the connection, the refusal of o if it is about o. It
// reports whether o has to wait until nats.go has reported last: the refusal may be an error
// before it.
func (r *refusals) await(o *Opening, last error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.refused == nil && o.concerns(last) {
		o.refused, o.early = last, true
	}
	if o.refused != nil || slices.Contains(o.reported, last) {
		return false
	}
	o.awaited = last
	return true
}

// refusalOf returns the refusal of o, or nil.
func (r *refusals) refusalOf(o *Opening) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.refused == nil {
		return nil
	}
	return &RefusedError{Subject: o.subject, Err: o.refused}
}

// deliver gives err to the subscription that it is about, and reports whether there is one:
// then the call that subscribes returns err. The server does not say which subscription
// exceeds its limit, so that error is for all that are being made. nats.go's error handler
// calls it.
func (r *refusals) deliver(err error) (delivered bool) {
	full := errors.Is(err, nats.ErrMaxSubscriptionsExceeded)
	r.mu.Lock()
	defer r.mu.Unlock()
	for o := range r.open {
		switch {
		case o.early:
			if !delivered && o.concerns(err) {
				delivered = true
				delete(r.open, o)
			}
			continue
		case o.refused == nil && (full || !delivered && o.concerns(err)):
			o.refused, delivered = err, true
		}
		o.reported = append(o.reported, err)
		if o.awaited != nil && (o.refused != nil || o.awaited == err) { //nolint:errorlint // whether it is the very same
			o.awaited = nil
			close(o.arrived)
		}
	}
	return delivered
}
