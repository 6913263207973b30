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
	"github.com/omnibus-go/bus/internal/telemetry"
)

// ErrUnknown is the error for a message that was sent and got no answer: it may be stored
// or not.
var ErrUnknown = errors.New("no acknowledgement came, the message may be stored or not")

const (
	// attemptTimeout is how long one attempt waits for the answer before a message that
	// may be sent again is sent again.
	attemptTimeout = 2 * time.Second
	// attemptPause is the pause after an attempt that failed, and between two checks
	// whether the connection is back.
	attemptPause = 100 * time.Millisecond
)

// Store sends m to a stream and waits for the acknowledgement until ctx ends. When the
// answer is lost, a message with an ID or an idempotent message is sent again, because the
// stream then stores it once. For other messages the error is ErrUnknown.
func (o *Outlet) Store(ctx context.Context, m *Message) (Ack, error) {
	if err := o.link.Enter(ctx); err != nil {
		return Ack{}, o.count(m, err)
	}
	defer o.link.Leave()
	ctx, span := o.tel.Send(ctx, o.operation(telemetry.OpStore, m))
	o.inject(ctx, m)
	ack, err := o.store(ctx, m)
	span.End(m.failure(err))
	return ack, o.count(m, err)
}

// store sends m until it has an outcome or ctx ends.
func (o *Outlet) store(ctx context.Context, m *Message) (Ack, error) {
	if ack, known, err := o.duplicate(ctx, m.Stream, m.ID); known || err != nil {
		return ack, err
	}
	var tried attempts
	for {
		tried.begin(o.link.Conn(), m)
		ack, err := o.storeOnce(ctx, m)
		again, err := tried.decide(m, err)
		if !again {
			return ack, err
		}
		if err := o.awaitNextAttempt(ctx); err != nil {
			return Ack{}, tried.wrapUnknown(err)
		}
		if err := o.checkRemembered(ctx, m, &tried); err != nil {
			return Ack{}, err
		}
	}
}

// awaitNextAttempt waits attemptPause, and then until there is a connection. Without one
// an attempt would only fill the buffer of nats.go.
func (o *Outlet) awaitNextAttempt(ctx context.Context) error {
	for {
		if err := sleep(ctx, attemptPause); err != nil {
			return err
		}
		if nc := o.link.Conn(); nc.IsConnected() || nc.IsClosed() {
			return nil
		}
	}
}

// attemptContext returns the context of one attempt. It ends with ctx, after
// attemptTimeout, and when the connection is lost.
func (o *Outlet) attemptContext(ctx context.Context) (_ context.Context, end func()) {
	ctx, connected := o.link.WhileConnected(ctx)
	ctx, cancel := context.WithTimeout(ctx, o.attemptTimeout)
	return ctx, func() {
		cancel()
		connected()
	}
}

// storeOnce sends m once. A message that may be sent again waits for the answer no longer
// than one attempt may take.
func (o *Outlet) storeOnce(ctx context.Context, m *Message) (Ack, error) {
	if m.isRepeatable() {
		var end func()
		ctx, end = o.attemptContext(ctx)
		defer end()
	}
	reply, err := o.request(ctx, m)
	if err != nil {
		return Ack{}, err
	}
	return parseAck(reply)
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() // even if d is over too: an attempt that is not made must not count as lost
}

// retryableCodes are refusals after which a retry may succeed soon. Nothing was stored.
var retryableCodes = []int{jserr.DuplicatePending, jserr.WrongLastSequenceBusy, jserr.BatchIncomplete, jserr.TooManyBatches}

// ambiguousCodes are refusals that do not tell whether an earlier attempt stored the same
// message. If it did, that may be the cause of the refusal: a single server compares
// sequences before it looks for the ID. Or the server refuses before it looks for the ID.
var ambiguousCodes = []int{jserr.WrongLastSequence, jserr.WrongLastSequenceBusy, jserr.BatchDuplicate, jserr.AccountLimits, jserr.ServerLimits, jserr.StreamSealed}

// maxUnavailable is how long a stream may have no responder, or be busy, before that is
// the outcome. A server that starts takes a moment. In a cluster a node that was killed is
// missed after 4 to 9 s, and then the others elect a leader.
const (
	maxUnavailable          = 500 * time.Millisecond
	maxUnavailableInCluster = 20 * time.Second
)

// attempts is the state of all attempts to store one message. It belongs to the goroutine
// that stores the message, or to the lock of the Window.
type attempts struct {
	maybeStored      bool      // one attempt may have stored the message
	unavailableSince time.Time // since when nobody answers, or the stream is busy; zero if neither
	clustered        bool      // the server is in a cluster

	// Of a message with an ID: when the first attempt began, and the server that knows
	// whether the message is stored. See mayBeForgotten.
	began  time.Time
	server string
}

// decide takes the error of one attempt, nil if that stored the message. It returns whether
// to try again. If not, it returns the error of the message.
func (a *attempts) decide(m *Message, err error) (again bool, _ error) {
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, nats.ErrNoResponders):
		return a.mayFindResponder(), err
	case isUnsent(err):
		return true, a.wrapUnknown(err)
	case isLost(err):
		a.maybeStored, a.unavailableSince = true, time.Time{}
		return m.isRepeatable() && !errors.Is(err, nats.ErrConnectionClosed), a.wrapUnknown(err) // a closed connection does not come back
	case jserr.Is(err, retryableCodes...) && a.mayRecover():
		return true, err
	case isUnanswerable(err):
		a.maybeStored = true
		return false, a.wrapUnknown(err)
	}
	if _, ok := errors.AsType[*StrangerError](err); ok {
		a.maybeStored = true // by the stream, whose answer came too late
	}
	if refused, ok := errors.AsType[*jserr.Refusal](err); ok && (m.ID == "" || !slices.Contains(ambiguousCodes, refused.Number)) {
		return false, err
	}
	return false, a.wrapUnknown(err)
}

// mayFindResponder reports whether to try again when there was no responder.
func (a *attempts) mayFindResponder() bool { return a.mayRecover() || a.maybeStored }

// mayRecover reports whether the stream has been unavailable for so short a time that it may
// come back.
func (a *attempts) mayRecover() bool {
	if a.unavailableSince.IsZero() {
		a.unavailableSince = time.Now()
	}
	limit := maxUnavailable
	if a.clustered {
		limit = maxUnavailableInCluster
	}
	return time.Since(a.unavailableSince) < limit
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

// isUnanswerable reports whether err means that the message was sent and its answer cannot
// come, because the connection may not subscribe to its inbox.
func isUnanswerable(err error) bool {
	refused, ok := errors.AsType[*link.RefusedError](err)
	return ok && refused.Inbox && refused.Sent
}

// isLost reports whether err means that the message was sent and no answer came.
func isLost(err error) bool {
	if _, is := errors.AsType[*unsentBatchError](err); is {
		return false
	}
	return errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
