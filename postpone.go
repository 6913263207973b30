package bus

import (
	"errors"
	"time"
)

// PostponedError is what Postpone returns.
type PostponedError struct {
	RetryIn time.Duration // when the message comes again, not negative
	Err     error         // why it was not tried, not nil
}

func (e *PostponedError) Error() string { return e.Err.Error() }

// Unwrap returns why the message was not tried.
func (e *PostponedError) Unwrap() error { return e.Err }

// Postpone returns err for a Consume handler, or a middleware before one, to return
// when the message was not tried: since what it needs is down, or since it is not its
// turn. The message comes again after d, and that was no attempt: Msg.Attempt stays,
// and however often it is postponed it does not become a dead letter. It goes before
// Permanent and RetryPolicy.Permanent. With keys the later messages of its key wait.
// When the bus ends the message is given back to its stream, and may come earlier.
//
// No event tells of it, it is not counted among the handler errors, and for Health no
// call was made: SubscriptionStats.Postponed counts it. For core handlers it is an
// error as any other. A negative d is 0, and a nil err stays nil. It is a
// *PostponedError, also where that is wrapped.
func Postpone(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &PostponedError{RetryIn: max(d, 0), Err: err}
}

// isPostponed reports whether err says of m, which a stream stored, that it was not
// tried.
func isPostponed(m *RawMsg, err error) bool {
	_, ok := errors.AsType[*PostponedError](err)
	return ok && m.Stream != ""
}
