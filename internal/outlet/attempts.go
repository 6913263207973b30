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

// retryableCodes are refusals that may be otherwise in a moment. Nothing was stored.
var retryableCodes = []int{jserr.DuplicatePending, jserr.WrongLastSequenceBusy, jserr.BatchIncomplete, jserr.TooManyBatches}

// ambiguousCodes are refusals that say nothing of an earlier try of the same message: it
// brings them about, if it was stored, since a single server compares sequences before it
// looks for the ID; or the server gives them without looking for that.
var ambiguousCodes = []int{jserr.WrongLastSequence, jserr.WrongLastSequenceBusy, jserr.BatchDuplicate, jserr.AccountLimits, jserr.ServerLimits, jserr.StreamSealed}

// leaderless is how long a stream may have no responder before it is taken for
// absent, and may be busy before that is the answer: leader elections and server
// starts take a moment.
const maxUnavailable = 500 * time.Millisecond

// tries is what the tries to store one message have shown so far.
type attempts struct {
	maybeStored      bool      // one of them may have stored it
	unavailableSince time.Time // from when on nobody answered, or the stream was busy; zero otherwise
}

// judge takes the error of a try, nil where it was stored. It says whether to try
// again, and else with which error the message ends.
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
		return m.isRepeatable() && !errors.Is(err, nats.ErrConnectionClosed), a.wrapUnknown(err) // that is for good
	case hasCode(err, retryableCodes) && a.mayRecover():
		return true, err
	}
	if refused, ok := errors.AsType[*jserr.Refusal](err); ok && (m.ID == "" || !slices.Contains(ambiguousCodes, refused.Number)) {
		return false, err
	}
	return false, a.wrapUnknown(err)
}

// soon reports whether the stream has not been without an answer for long.
func (a *attempts) mayRecover() bool {
	if a.unavailableSince.IsZero() {
		a.unavailableSince = time.Now()
	}
	return time.Since(a.unavailableSince) < maxUnavailable
}

// doubted is err, of a try that did not store the message, or may not have, after
// others which may.
func (a *attempts) wrapUnknown(err error) error {
	if a.maybeStored {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

func hasCode(err error, codes []int) bool {
	refused, ok := errors.AsType[*jserr.Refusal](err)
	return ok && slices.Contains(codes, refused.Number)
}

// repeatable reports whether m may be sent again when its answer was lost.
func (m *Message) isRepeatable() bool { return m.ID != "" || m.Idempotent }

// unsent reports whether err means that the connection was found lost before the
// message was out.
func isUnsent(err error) bool { return errors.Is(err, link.ErrDisconnected) }

// lost reports whether err means that the message was sent and the answer did
// not come.
func isLost(err error) bool {
	if _, is := errors.AsType[*unsentBatchError](err); is {
		return false
	}
	return errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
