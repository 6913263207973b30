package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/access"
	"github.com/omnibus-go/bus/internal/consumer"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/recovery"
	"github.com/omnibus-go/bus/internal/settle"
)

// RetryPolicy sets how often and when a failed message is tried again. The first wait is
// MinBackoff. Each further wait is twice as long, up to MaxBackoff, less a random part of up to
// a quarter. After MaxAttempts failures the message becomes a dead letter. Zero fields mean 25
// attempts, 100 ms, 10 minutes (about two hours in all), and 3 crashes.
type RetryPolicy struct {
	// MaxAttempts is the number of handler calls; Unlimited for no limit. A call that a crash of
	// the process ends does not count, nor do earlier calls of a message that waited here for its
	// next attempt when the process crashed. Without keys a message may be stored until its next
	// attempt, if that is 30 s away or many wait. If the process crashes between that and the
	// acknowledgement, or within 100 ms after it, the server redelivers the message besides. Then
	// each of the two counts its own calls: they are twice MaxAttempts at most.
	MaxAttempts int
	MinBackoff  time.Duration
	MaxBackoff  time.Duration // if zero, at least MinBackoff

	// MaxCrashes is how often the process may crash while it handles a message and no
	// other one. Then the message becomes a dead letter. After a crash, the messages that
	// the process may have been handling are handled one at a time, once. Zero means 3.
	// Unlimited switches this off.
	MaxCrashes int

	// Permanent reports whether another attempt would fail as well. Then the message
	// becomes a dead letter at once. If it is nil, only errors of the function Permanent do
	// that. Several goroutines may call it at once.
	Permanent func(error) bool
}

// Unlimited switches a limit off.
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

// policy returns p for the engine.
func (p RetryPolicy) policy() settle.Policy {
	return settle.Policy{MaxAttempts: max(p.MaxAttempts, 0), MinBackoff: p.MinBackoff, MaxBackoff: p.MaxBackoff}
}

// outcome returns what the error of a handler call means. A worker calls it.
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

// ask calls the program's function about err. It returns the error to report: err, with the
// panic if the function panics, which counts as no.
func (p RetryPolicy) ask(err error) (permanent bool, report error) {
	defer func() {
		if report != nil {
			report = fmt.Errorf("%w; RetryPolicy.Permanent failed on this error: %w", err, report)
		} else {
			report = err
		}
	}()
	defer catch("RetryPolicy.Permanent", &report)
	permanent = p.Permanent(err)
	return permanent, nil
}

// isPermanent reports whether every further attempt would fail as well: the handler returned
// Permanent, the message cannot be decoded or is invalid, or no handler is for it.
func isPermanent(err error) bool {
	if errors.Is(err, errUnrouted) {
		return true
	}
	if _, ok := errors.AsType[*permanent](err); ok {
		return true
	}
	_, bad := errors.AsType[*unreadable](err)
	return bad && !errors.Is(err, payload.ErrUnknown) // another process may know it
}

// permanent is the error that Permanent returns.
type permanent struct{ err error }

func (e *permanent) Error() string { return e.err.Error() }
func (e *permanent) Unwrap() error { return e.err }

// Permanent returns err as an error with which a Consume handler makes the message a dead letter
// at once, because another attempt would fail as well. A nil err stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err}
}

// retryAfter is the error that RetryAfter returns.
type retryAfter struct {
	delay time.Duration
	err   error
}

func (e *retryAfter) Error() string { return e.err.Error() }
func (e *retryAfter) Unwrap() error { return e.err }

// RetryAfter returns err as an error with which a Consume handler sets the time of the next
// attempt: after d, instead of the time of the retry policy. The failed call counts as an
// attempt. A negative d is 0. A nil err stays nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfter{delay: max(d, 0), err: err}
}

// Cause is why a message became a dead letter.
type Cause string

// The causes.
const (
	CauseError     Cause = "error"      // the last handler call returned an error
	CausePanic     Cause = "panic"      // the last handler call panicked
	CauseDeadline  Cause = "deadline"   // the last handler call ran out of time
	CausePermanent Cause = "permanent"  // the handler returned Permanent, or RetryPolicy.Permanent reported true
	CauseMalformed Cause = "malformed"  // the message could not be decoded
	CauseInvalid   Cause = "invalid"    // Validate refused the message
	CauseUnrouted  Cause = "unrouted"   // the Mux has no handler for the message
	CauseBehind    Cause = "behind"     // an earlier message of the key is a dead letter, see KeyFollows
	CauseCrashLoop Cause = "crash loop" // the process crashed MaxCrashes times while it handled the message
)

// causes has all of them, for the check of a DeadFilter.
var causes = []Cause{CauseError, CausePanic, CauseDeadline, CausePermanent, CauseMalformed, CauseInvalid, CauseUnrouted, CauseBehind, CauseCrashLoop}

// causeOf returns the cause of the failure err, which ended the attempts.
func (p RetryPolicy) causeOf(err error) Cause {
	if f, ok := errors.AsType[*settle.Failure](err); ok { // the process that ran the handler named it
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
	if _, ok := errors.AsType[*consumer.ForeignError](err); ok {
		return CauseUnrouted
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

// Postpone returns err as an error with which a Consume handler, or a middleware, says that the
// message was not tried: for example because a service that it needs is down. The message is
// redelivered after d. That is no attempt: Msg.Attempt stays the same, and the message does not
// become a dead letter however often it is postponed. With keys, the later messages of its key
// wait. If the bus ends, the message is returned to its stream and may be redelivered earlier.
//
// Postpone wins over Permanent and RetryPolicy.Permanent. No event reports it. It is counted in
// stats.Subscription.Postponed, not among the handler errors, and Health ignores it. For a core
// handler (Subscribe, Respond) it is an ordinary error. A negative d is 0. A nil err stays nil.
// The result may be wrapped.
func Postpone(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &postponed{after: max(d, 0), err: err}
}

// isPostponed reports whether err, of a handler, postpones m. Only messages of streams can be
// postponed.
func isPostponed(m *RawMsg, err error) bool {
	return m.Stream != "" && isPostponedError(err)
}
