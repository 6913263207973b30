package link

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// deniedMemory is for how long the refusal of a message counts. Without a permission the next
// one is refused, too.
const deniedMemory = time.Minute

// Denied returns a *RefusedError if the server refuses messages or a subscription to a subject
// that begins with tokens: if it has refused a message in the last minute and accepted none
// since, or a subscription since the connection was made. Of several it returns the first by
// subject. Otherwise it returns nil.
func (l *Link) Denied(tokens string) error {
	d := &l.denials
	if d.trusted.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var first string
	var denied error
	deny := func(subject string, err error) {
		if beginsWith(subject, tokens) && (denied == nil || subject < first) {
			first, denied = subject, err
		}
	}
	for subject, err := range d.subs {
		deny(subject, err)
	}
	for subject, told := range d.told {
		if time.Since(told.latest) < deniedMemory {
			deny(subject, told.err)
		}
	}
	return denied
}

// lack records e, about a subscription that no call waits for.
func (d *denials) lack(e *RefusedError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.subs == nil {
		d.subs = make(map[string]error)
	}
	if len(d.subs) < maxDenied {
		d.subs[e.Subject] = e
	}
}

// allow records that the server accepts messages to subject.
func (d *denials) allow(subject string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.told, subject)
	d.denied.Store(len(d.told) > 0)
}

// hasAny reports whether subject begins with one of the prefixes.
func hasAny(subject string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(subject, p) })
}

// ProveSubscription subscribes to subject for a moment, and returns a *RefusedError if the
// server refuses that. If it does not answer in time it has not.
func (l *Link) ProveSubscription(ctx context.Context, subject string) error {
	w := l.WatchSubscription(subject, "")
	defer w.End()
	sub, err := l.nc.Subscribe(subject, func(*nats.Msg) {})
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	if l.Flush(ctx, maxProof) != nil {
		return nil
	}
	return w.Refusal()
}

// ProveReplies returns a *RefusedError with Inbox if the server refuses the subscription to
// replies. On each connection it subscribes once, for a moment, unless it knows the answer.
func (l *Link) ProveReplies(ctx context.Context) error {
	d := &l.denials
	if d.trusted.Load() {
		return nil
	}
	if known, err := d.repliesProven(); known {
		return err
	}
	err := l.ProveSubscription(ctx, l.nc.NewInbox()+".*")
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		l.denyInbox(err)
	case err == nil && ctx.Err() == nil:
		d.proveReplies()
	}
	_, err = d.repliesProven()
	return err
}

// repliesProven reports whether it is known that replies come, or why they do not.
func (d *denials) repliesProven() (known bool, refused error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.replies || d.inbox != nil, d.inbox
}

// proveReplies records that replies come.
func (d *denials) proveReplies() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.replies = true
}
