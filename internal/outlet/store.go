package outlet

import (
	"context"
	"errors"
	"time"

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
	err = o.count(m, err)
	span.End(err)
	return ack, err
}

// store sends m until it has an outcome or ctx ends.
func (o *Outlet) store(ctx context.Context, m *Message) (Ack, error) {
	var tried attempts
	for {
		ack, err := o.storeOnce(ctx, m)
		again, err := tried.decide(m, err)
		if !again {
			return ack, err
		}
		if err := o.awaitNextAttempt(ctx); err != nil {
			return Ack{}, tried.wrapUnknown(err)
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
