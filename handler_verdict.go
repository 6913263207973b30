package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/access"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/recovery"
	"github.com/omnibus-go/bus/internal/settle"
)

// RetryPolicy says how often a message whose handler failed is tried, and when:
// again after MinBackoff, then after twice as long each time up to MaxBackoff, less
// a random part of up to a quarter. After MaxAttempts failures it becomes a dead
// letter. Zero fields mean 25 attempts, 100 ms and 10 minutes, which is about two
// hours in all, and 3 crashes.
type RetryPolicy struct {
	MaxAttempts int // handler calls; bus.Unlimited for no limit
	MinBackoff  time.Duration
	MaxBackoff  time.Duration // never less than MinBackoff where it is zero

	// MaxCrashes is how often the process may die while a message is handled, and
	// nothing beside it; then it becomes a dead letter. After a death the messages
	// that the process may have been at are handled one at a time, once. Zero means 3;
	// with bus.Unlimited nothing of that is done.
	MaxCrashes int

	// Permanent reports whether another try would fail as well, so that the message
	// becomes a dead letter at once. Nil means that only Permanent errors do. It is
	// called by several goroutines at once.
	Permanent func(error) bool
}

// Unlimited clears a limit.
const Unlimited = -1

var defaultRetry = RetryPolicy{MaxAttempts: 25, MinBackoff: 100 * time.Millisecond, MaxBackoff: 10 * time.Minute, MaxCrashes: 3}

func (p RetryPolicy) withDefaults() RetryPolicy {
	if p.MaxAttempts == 0 {
		p.MaxAttempts = defaultRetry.MaxAttempts
	}
	if p.MaxCrashes == 0 {
		p.MaxCrashes = defaultRetry.MaxCrashes
	}
	if p.MinBackoff == 0 {
		p.MinBackoff = defaultRetry.MinBackoff
	}
	if p.MaxBackoff == 0 {
		p.MaxBackoff = max(defaultRetry.MaxBackoff, p.MinBackoff)
	}
	return p
}

// policy is p for the part that decides.
func (p RetryPolicy) policy() settle.Policy {
	return settle.Policy{MaxAttempts: max(p.MaxAttempts, 0), MinBackoff: p.MinBackoff, MaxBackoff: p.MaxBackoff}
}

// outcome is what p makes of the error that a handler call ended with.
func (p RetryPolicy) outcome(err error) settle.Outcome {
	if err == nil {
		return settle.Outcome{}
	}
	if later, ok := errors.AsType[*postponed](err); ok {
		return settle.Outcome{Err: err, Postponed: true, After: later.after}
	}
	o := settle.Outcome{Err: err, Permanent: isPermanent(err)}
	if p.Permanent != nil && !o.Permanent {
		o.Permanent, o.Err = p.ask(err)
	}
	if asked, ok := errors.AsType[*retryAfter](err); ok {
		o.Asked, o.After = true, asked.delay
	}
	return o
}

// ask has the user's function say whether err is permanent. One that panics says no,
// and that is told with err.
func (p RetryPolicy) ask(err error) (permanent bool, told error) {
	defer func() {
		if told != nil {
			told = fmt.Errorf("%w; RetryPolicy.Permanent was asked about that: %w", err, told)
		} else {
			told = err
		}
	}()
	defer catch(&told)
	permanent = p.Permanent(err)
	return permanent, nil
}

// isPermanent reports whether every further try would fail as well: the handler
// says so, the message itself is bad, or nobody is for it.
func isPermanent(err error) bool {
	if errors.Is(err, errUnrouted) {
		return true
	}
	if _, ok := errors.AsType[*permanent](err); ok {
		return true
	}
	_, bad := errors.AsType[*unreadable](err)
	return bad && !errors.Is(err, payload.ErrUnknown) // another member may know what this one does not
}

// permanent is a handler error that no further try would mend.
type permanent struct{ err error }

func (e *permanent) Error() string { return e.err.Error() }
func (e *permanent) Unwrap() error { return e.err }

// Permanent returns err for a Consume handler to return where another try would
// fail as well: the message becomes a dead letter at once. A nil err stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err}
}

// retryAfter is a handler error that says when to try again.
type retryAfter struct {
	delay time.Duration
	err   error
}

func (e *retryAfter) Error() string { return e.err.Error() }
func (e *retryAfter) Unwrap() error { return e.err }

// RetryAfter returns err for a Consume handler to return so that the message
// comes again after d, instead of when the retry policy says. It counts as an
// attempt. A nil err stays nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfter{delay: max(d, 0), err: err}
}

// Cause says why a message became a dead letter.
type Cause string

// The causes.
const (
	CauseError     Cause = "error"      // the handler returned an error, at the last attempt
	CausePanic     Cause = "panic"      // it panicked then
	CauseDeadline  Cause = "deadline"   // it ran out of time then
	CausePermanent Cause = "permanent"  // the handler returned Permanent, or RetryPolicy.Permanent says so
	CauseMalformed Cause = "malformed"  // it could not be decoded
	CauseInvalid   Cause = "invalid"    // its Validate refused it
	CauseUnrouted  Cause = "unrouted"   // a Mux has no handler for it
	CauseBehind    Cause = "behind"     // an earlier one of its key is a dead letter, see ParkKey
	CauseCrashLoop Cause = "crash loop" // the process died again and again while it was handled
)

// causes are all of them.
var causes = []Cause{CauseError, CausePanic, CauseDeadline, CausePermanent, CauseMalformed, CauseInvalid, CauseUnrouted, CauseBehind, CauseCrashLoop}

// causeOf is the kind of the failure err, which ended the attempts.
func (p RetryPolicy) causeOf(err error) Cause {
	if f, ok := errors.AsType[*settle.Failure](err); ok { // it was judged where it ran
		return Cause(f.Cause)
	}
	if _, ok := errors.AsType[*recovery.BlockedKeyError](err); ok {
		return CauseBehind
	}
	if _, ok := errors.AsType[*recovery.CrashLoopError](err); ok {
		return CauseCrashLoop
	}
	if _, ok := errors.AsType[*unreadable](err); ok {
		if _, invalid := errors.AsType[*ValidationError](err); invalid {
			return CauseInvalid
		}
		return CauseMalformed
	}
	switch _, panicked := errors.AsType[*PanicError](err); {
	case errors.Is(err, errUnrouted):
		return CauseUnrouted
	case panicked:
		return CausePanic
	case p.outcome(err).Permanent:
		return CausePermanent
	case errors.Is(err, context.DeadlineExceeded):
		return CauseDeadline
	}
	return CauseError
}

// postponed is what Postpone returns.
type postponed struct {
	after time.Duration // not negative
	err   error         // not nil
}

func (e *postponed) Error() string { return e.err.Error() }
func (e *postponed) Unwrap() error { return e.err }

func init() { access.IsPostponed = isPostponedError }

func isPostponedError(err error) bool {
	_, ok := errors.AsType[*postponed](err)
	return ok
}

// Postpone returns err for a Consume handler, or a middleware before one, to return
// when the message was not tried: since what it needs is down, or since it is not its
// turn. The message comes again after d, and that was no attempt: Msg.Attempt stays,
// and however often it is postponed it does not become a dead letter. It goes before
// Permanent and RetryPolicy.Permanent. With keys the later messages of its key wait.
// When the bus ends the message is given back to its stream, and may come earlier.
//
// No event tells of it, it is not counted among the handler errors, and for Health no
// call was made: SubscriptionStats.Postponed counts it. For core handlers it is an
// error as any other. A negative d is 0, and a nil err stays nil. It may be wrapped.
func Postpone(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &postponed{after: max(d, 0), err: err}
}

// isPostponed reports whether err says of m, which a stream stored, that it was not
// tried.
func isPostponed(m *RawMsg, err error) bool {
	return m.Stream != "" && isPostponedError(err)
}
