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
)

// BreakerSettings says when a CircuitBreaker opens and closes. The zero value
// means the defaults.
type BreakerSettings struct {
	// Failures is how many failures in a row open it; 0 means 5.
	Failures int
	// OpenFor is how long it then refuses messages, at least 1 ms; 0 means 10 s.
	OpenFor time.Duration
	// Probes is how many messages are let through after that, all of which must
	// succeed for it to close; one failure opens it again. 0 means 1.
	Probes int
	// IsFailure tells whether an error counts as a failure; others count as
	// successes. The default counts all but those made with bus.Public, which
	// are answers. It is called by several goroutines at once.
	IsFailure func(error) bool
}

const (
	defaultFailures = 5
	defaultOpenFor  = 10 * time.Second
	defaultProbes   = 1
	minOpenFor      = time.Millisecond
	maxProbing      = time.Second
)

// OpenError is the error of a message that a CircuitBreaker refused. As the
// error of a responder it reaches the caller as a *bus.RemoteError with the code
// "503".
type OpenError struct {
	// RetryIn is when the breaker lets messages through again. While it waits
	// for the outcome of its probes that is not known; it is then OpenFor, but
	// not more than 1 s.
	RetryIn time.Duration
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("bus: the circuit breaker is open: the handler failed too often and gets no messages for %v", e.RetryIn.Round(time.Millisecond))
}

// Unwrap returns what may be told to the caller of a responder.
func (e *OpenError) Unwrap() error { return errUnavailable }

var errUnavailable = bus.Public("503", "temporarily unavailable, try again later")

// CircuitBreaker keeps messages away from a handler that fails one after the
// other, as when the database behind it is down, and so gives that time to
// recover. While it is open the handler is not called and the error is an
// *OpenError. For bus.Consume the message comes again when the breaker lets
// messages through again, and that was no attempt (bus.Postpone); the message of a
// bus.Subscribe is lost, as with any error.
//
// A panic is a failure. Messages that could not be decoded or are not valid or were
// postponed, and calls that were cancelled, say nothing about the handler and count neither as
// success nor as failure.
//
// All handlers that are given the same value share one breaker: they open
// together, as is right when they depend on the same thing. Give it with bus.Use
// to those handlers. With bus.WithMiddleware one failing handler would stop all
// of the bus.
func CircuitBreaker(s BreakerSettings) (bus.Middleware, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	b := newBreaker(s.withDefaults())
	return func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error { return b.call(ctx, m, next) }
	}, nil
}

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
		s.IsFailure = func(err error) bool { return !isPublic(err) }
	}
	return s
}

type breaker struct {
	gate      *gobreaker.TwoStepCircuitBreaker[struct{}]
	isFailure func(error) bool
	openFor   time.Duration
	opened    atomic.Pointer[time.Time] // the last time; gobreaker keeps it to itself
}

func newBreaker(s BreakerSettings) *breaker {
	b := &breaker{isFailure: s.IsFailure, openFor: s.OpenFor}
	b.gate = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: uint32(s.Probes),
		// It opens its gate after this time, not at it.
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
	errIgnored  = errors.New("the outcome says nothing about the handler")
)

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

// retryIn is how long a refused message should wait.
func (b *breaker) retryIn() time.Duration {
	if left := b.openFor - time.Since(*b.opened.Load()); left > 0 {
		return left
	}
	return min(b.openFor, maxProbing)
}

// judge returns what to report of a call that returned err: nil for a success.
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

// saysNothing reports whether err is about the message, about a bus that stops,
// or of a message that was not tried, as by a breaker further in.
func isIgnored(err error) bool {
	var (
		malformed *bus.CodecError
		invalid   *bus.ValidationError
		open      *OpenError
		postponed *bus.PostponedError
	)
	return errors.As(err, &malformed) || errors.As(err, &invalid) || errors.As(err, &open) || errors.As(err, &postponed) || errors.Is(err, context.Canceled)
}

func isPublic(err error) bool {
	var public *bus.PublicError
	return errors.As(err, &public)
}
