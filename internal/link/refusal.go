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

// RefusedError is the error of a subscription that the server refused: without
// permission, or beyond its limit.
type RefusedError struct {
	Subject string
	Err     error // the server's word
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the server refuses the subscription to %q: %v", e.Subject, e.Err)
}

// Unwrap returns the server's word.
func (e *RefusedError) Unwrap() error { return e.Err }

// Opening listens for the refusal of one subscription, from before it is sent
// until End.
//
// The server's word comes before the answer to a flush, but nats.go passes it on
// later, on another goroutine. What it knows at once is the last error of the
// connection, which says whether there is something to wait for, and mostly what.
type Opening struct {
	link           *Link
	subject, group string
	before         error // the connection's last error

	// Guarded by the mu of refusals.
	heard   []error // what nats.go has passed on since
	awaited error   // of which Refusal waits to hear
	told    chan struct{}
	refused error
	settled bool // refused was read from the last error: it is still to be heard
}

const (
	// lateWord bounds how long Refusal waits until nats.go has passed on what it
	// has: whoever is told of errors may take long.
	lateWord = 2 * time.Second
	// vagueWord is lateWord for errors that are the same value each time, where it
	// cannot be seen whether they were passed on.
	vagueWord = 250 * time.Millisecond
)

// Opening begins to listen.
func (l *Link) Opening(subject, group string) *Opening {
	o := &Opening{link: l, subject: subject, group: group, before: l.nc.LastError(), told: make(chan struct{})}
	l.refusals.add(o)
	return o
}

// Refusal returns a *RefusedError if the server refused the subscription. It is
// to be called once, when the server has answered a flush.
func (o *Opening) Refusal() error {
	last := o.link.nc.LastError()
	vague := !errors.Is(last, nats.ErrPermissionViolation)
	full := errors.Is(last, nats.ErrMaxSubscriptionsExceeded) // maybe again
	if last == nil || last == o.before && !full {             //nolint:errorlint // whether it is the very same
		return nil
	}
	if o.link.refusals.await(o, last) {
		late := time.NewTimer(lateWord)
		if vague {
			late.Reset(vagueWord)
		}
		defer late.Stop()
		select {
		case <-o.told:
		case <-late.C:
		}
	}
	return o.link.refusals.of(o)
}

// End stops listening.
func (o *Opening) End() { o.link.refusals.end(o) }

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

// refusals are the subscriptions about which the server may have a word to say.
type refusals struct {
	mu   sync.Mutex
	open map[*Opening]struct{}
}

func (r *refusals) add(o *Opening) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = make(map[*Opening]struct{})
	}
	r.open[o] = struct{}{}
}

// end forgets o, unless the word about it is still to come, which would be taken
// for news.
func (r *refusals) end(o *Opening) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !o.settled {
		delete(r.open, o)
	}
}

// await makes last, which the connection has, o's refusal where it is that, and
// reports whether o has to wait until last was passed on: the refusal may have come
// before it.
func (r *refusals) await(o *Opening, last error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.refused == nil && o.concerns(last) {
		o.refused, o.settled = last, true
	}
	if o.refused != nil || slices.Contains(o.heard, last) {
		return false
	}
	o.awaited = last
	return true
}

// of returns o's refusal.
func (r *refusals) of(o *Opening) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.refused == nil {
		return nil
	}
	return &RefusedError{Subject: o.subject, Err: o.refused}
}

// take gives err to the subscription it is about, and reports whether there is
// one: then its call returns it. The server does not say which subscription was
// one too many, so that is about all that are being made.
func (r *refusals) take(err error) (taken bool) {
	full := errors.Is(err, nats.ErrMaxSubscriptionsExceeded)
	r.mu.Lock()
	defer r.mu.Unlock()
	for o := range r.open {
		switch {
		case o.settled:
			if !taken && o.concerns(err) {
				taken = true
				delete(r.open, o)
			}
			continue
		case o.refused == nil && (full || !taken && o.concerns(err)):
			o.refused, taken = err, true
		}
		o.heard = append(o.heard, err)
		if o.awaited != nil && (o.refused != nil || o.awaited == err) { //nolint:errorlint // whether it is the very same
			o.awaited = nil
			close(o.told)
		}
	}
	return taken
}
