package outlet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/link"
)

// retryableCodes are refusals after which a retry may succeed soon. Nothing was stored.
var retryableCodes = []int{jserr.DuplicatePending, jserr.WrongLastSequenceBusy, jserr.BatchIncomplete, jserr.TooManyBatches}

// ambiguousCodes are refusals that do not tell whether an earlier attempt stored the same
// message. If it did, that may be the cause of the refusal: a single server compares
// sequences before it looks for the ID. Or the server refuses before it looks for the ID.
var ambiguousCodes = []int{jserr.WrongLastSequence, jserr.WrongLastSequenceBusy, jserr.BatchDuplicate, jserr.AccountLimits, jserr.ServerLimits, jserr.StreamSealed}

// maxUnavailable is how long a stream may have no responder, or be busy, before that is
// the outcome. Leader elections and server starts take a moment.
const maxUnavailable = 500 * time.Millisecond

// attempts is the state of all attempts to store one message. It belongs to the goroutine
// that stores the message, or to the lock of the Window.
type attempts struct {
	maybeStored      bool      // one attempt may have stored the message
	unavailableSince time.Time // since when nobody answers, or the stream is busy; zero if neither
}

// decide takes the error of one attempt, nil if that stored the message. It returns whether
// to try again. If not, it returns the error of the message.
func (a *attempts) decide(m *Message, err error) (again bool, _ error) {
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, nats.ErrNoResponders):
		return a.mayRecover() || a.maybeStored, err
	case isUnsent(err):
		return true, a.wrapUnknown(err)
	case isLost(err):
		a.maybeStored, a.unavailableSince = true, time.Time{}
		return m.isRepeatable() && !errors.Is(err, nats.ErrConnectionClosed), a.wrapUnknown(err) // a closed connection does not come back
	case jserr.Is(err, retryableCodes...) && a.mayRecover():
		return true, err
	}
	if refused, ok := errors.AsType[*jserr.Refusal](err); ok && (m.ID == "" || !slices.Contains(ambiguousCodes, refused.Number)) {
		return false, err
	}
	return false, a.wrapUnknown(err)
}

// mayRecover reports whether the stream has been unavailable for less than maxUnavailable.
func (a *attempts) mayRecover() bool {
	if a.unavailableSince.IsZero() {
		a.unavailableSince = time.Now()
	}
	return time.Since(a.unavailableSince) < maxUnavailable
}

// wrapUnknown adds ErrUnknown to err if one of the attempts may have stored the message.
func (a *attempts) wrapUnknown(err error) error {
	if a.maybeStored {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

// isUnsent reports whether err means that the connection was lost before the message was
// sent.
func isUnsent(err error) bool { return errors.Is(err, link.ErrDisconnected) }

// isLost reports whether err means that the message was sent and no answer came.
func isLost(err error) bool {
	if _, is := errors.AsType[*unsentBatchError](err); is {
		return false
	}
	return errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
