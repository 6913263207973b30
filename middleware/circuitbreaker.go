package middleware

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/internal/access"
)

// BreakerSettings are the settings of a CircuitBreaker. The zero value has the defaults.
type BreakerSettings struct {
	// Failures is the number of consecutive failures that open the breaker. 0 means 5.
	Failures int
	// OpenFor is how long an open breaker refuses messages. It must be at least 1 ms. 0 means
	// 10 s.
	OpenFor time.Duration
	// Probes is how many messages the breaker lets through after OpenFor. If all succeed the
	// breaker closes. One failure opens it again. 0 means 1.
	Probes int
	// IsFailure reports whether an error is a failure. Other errors count as successes. The
	// default counts every error as a failure, except errors from bus.Public, which are
	// answers. Several goroutines call it at once.
	IsFailure func(error) bool
}

const (
	defaultFailures = 5
	defaultOpenFor  = 10 * time.Second
	defaultProbes   = 1
	minOpenFor      = time.Millisecond
	maxProbing      = time.Second
)

// OpenError is the error for a message that an open CircuitBreaker refused. The caller of a
// responder gets it as a *bus.RemoteError with the code "503".
type OpenError struct {
	// RetryIn is how long it takes until the breaker lets messages through again. While the
	// probes run that is not known. Then RetryIn is OpenFor, but at most 1 s.
	RetryIn time.Duration
}

// Error returns a text with RetryIn.
func (e *OpenError) Error() string {
	return fmt.Sprintf("bus: the circuit breaker is open: the handler failed too often and gets no messages for %v", e.RetryIn.Round(time.Millisecond))
}

// Unwrap returns the error that the caller of a responder may see.
func (e *OpenError) Unwrap() error { return errUnavailable }

var errUnavailable = bus.Public("503", "temporarily unavailable, try again later")

// CircuitBreaker returns a middleware that stops calling a handler after several consecutive
// failures, for example because a database is down. So the database can recover. While the
// breaker is open the handler is not called, and the error is an *OpenError. With bus.Consume
// the message is redelivered when the breaker lets messages through again, and this does not
// count as an attempt (see bus.Postpone). With bus.Subscribe the message is lost, as after any
// error.
//
// A panic is a failure. A message that could not be decoded, is invalid or was postponed counts
// neither as a success nor as a failure, and neither does a cancelled call.
//
// All handlers with the same middleware value share one breaker. Use one breaker for handlers
// that depend on the same resource, with bus.Use. With bus.WithMiddleware one failing handler
// would stop all handlers of the bus.
func CircuitBreaker(s BreakerSettings) (bus.Middleware, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	b := newBreaker(s.withDefaults())
	return func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error { return b.call(ctx, m, next) }
	}, nil
}

// check returns an error for an invalid setting.
func (s BreakerSettings) check() error {
	const fn = "CircuitBreaker"
	switch {
	case s.Failures < 0 || s.Failures > math.MaxInt32:
		return invalid(fn, "Failures", fmt.Sprintf("must be more than zero, or zero for %d, not %d", defaultFailures, s.Failures))
	case s.OpenFor != 0 && s.OpenFor < minOpenFor:
		return invalid(fn, "OpenFor", fmt.Sprintf("must be at least %v, or zero for %v, not %v", minOpenFor, defaultOpenFor, s.OpenFor))
	case s.Probes < 0 || s.Probes > math.MaxInt32:
		return invalid(fn, "Probes", fmt.Sprintf("must be more than zero, or zero for %d, not %d", defaultProbes, s.Probes))
	}
	return nil
}

// withDefaults replaces zero settings with the defaults.
func (s BreakerSettings) withDefaults() BreakerSettings {
	if s.Failures == 0 {
		s.Failures = defaultFailures
	}
	if s.OpenFor == 0 {
		s.OpenFor = defaultOpenFor
	}
	if s.Probes == 0 {
		s.Probes = defaultProbes
	}
	if s.IsFailure == nil {
		s.IsFailure = func(err error) bool { return !access.IsPublic(err) }
	}
	return s
}

// breaker is the state of a CircuitBreaker. Safe for concurrent use.
type breaker struct {
	gate      *gobreaker.TwoStepCircuitBreaker[struct{}]
	isFailure func(error) bool
	openFor   time.Duration
	opened    atomic.Pointer[time.Time] // when it opened last; gobreaker does not return that
}

// newBreaker returns a closed breaker.
func newBreaker(s BreakerSettings) *breaker {
	b := &breaker{isFailure: s.IsFailure, openFor: s.OpenFor}
	b.gate = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: uint32(s.Probes),
		// gobreaker lets messages through after this time, and not at it.
		Timeout:     s.OpenFor - 1,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= uint32(s.Failures) },
		IsExcluded:  func(err error) bool { return errors.Is(err, errIgnored) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				now := time.Now()
				b.opened.Store(&now)
			}
		},
	})
	return b
}

var (
	errPanicked = errors.New("the handler panicked")
	errIgnored  = errors.New("the outcome is neither a success nor a failure of the handler")
)

// call calls next if the breaker lets m through, and reports the outcome to the breaker.
func (b *breaker) call(ctx context.Context, m *bus.RawMsg, next bus.RawHandler) error {
	report, err := b.gate.Allow()
	if err != nil {
		open := &OpenError{RetryIn: b.retryIn()}
		return bus.Postpone(open.RetryIn, open)
	}
	result := errPanicked
	defer func() { report(result) }() // also when next panics
	err = next(ctx, m)
	result = b.outcome(err)
	return err
}

// retryIn returns how long a refused message must wait.
func (b *breaker) retryIn() time.Duration {
	if left := b.openFor - time.Since(*b.opened.Load()); left > 0 {
		return left
	}
	return min(b.openFor, maxProbing)
}

// outcome returns what to report for a call that returned err: nil for a success.
func (b *breaker) outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case isIgnored(err):
		return errIgnored
	case b.isFailure(err):
		return err
	}
	return nil
}

// isIgnored reports whether err is neither a success nor a failure of the handler: the message is
// wrong, the bus stops, or the handler was not called, for example because of an inner breaker.
func isIgnored(err error) bool {
	var (
		malformed *bus.CodecError
		invalid   *bus.ValidationError
		open      *OpenError
	)
	return errors.As(err, &malformed) || errors.As(err, &invalid) || errors.As(err, &open) || access.IsPostponed(err) || errors.Is(err, context.Canceled)
}

// isPublic reports whether err is from bus.Public.
