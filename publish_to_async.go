package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/outlet"
)

// Future is the outcome of one PublishToAsync, which comes later. Safe for concurrent
// use; it may be dropped when nobody wants to know.
type Future struct {
	stream  *Stream
	expect  *outlet.Expectation
	pending outlet.Future
}

// PublishToAsync is PublishTo without waiting: it hands v to the connection and
// returns a future for the acknowledgement. Messages of one goroutine go out in the
// order of the calls. v may be changed after the call.
//
// At most as many messages as WithAsyncWindow says are without an acknowledgement at
// once; when there are, PublishToAsync waits until ctx ends.
//
// ctx bounds the call, and its deadline the wait for the acknowledgement; where it has
// none that is the bus's timeout (WithTimeout). That a ctx is cancelled after the
// call does not take the message back. With MsgID or AutoID a message is sent again
// until then when its answer is lost, also over a reconnect; without them a lost
// answer is ErrUnknownOutcome. While the bus has no connection messages wait in the
// window.
//
// Flush and Close wait for the outcomes. Errors of the call are those of PublishTo
// before anything is sent, and ErrTimeout when the window stays full. All others are
// the future's.
func PublishToAsync[T any](ctx context.Context, st *Stream, s Subject[T], v T, opts ...StoreOption) (*Future, error) {
	f := &Future{stream: st}
	m := &f.pending.Message
	var err error
	if f.expect, err = prepareStore(ctx, st, "PublishToAsync", m, s, v, opts); err != nil {
		return nil, err
	}
	if aliased(v) {
		m.Data = bytes.Clone(m.Data)
	}
	if err := st.bus.sendAsync(ctx, f); err != nil {
		return nil, err
	}
	return f, nil
}

func (b *Bus) sendAsync(ctx context.Context, f *Future) error {
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(b.core.Timeout)
	}
	f.pending.Deadline = end
	err := b.window.Add(ctx, &f.pending)
	if errors.Is(err, outlet.ErrWindowFull) {
		return &opError{"PublishToAsync", fmt.Errorf("%w: %d messages have no acknowledgement yet; publish slower, or allow more with WithAsyncWindow", translate(err), b.cfg.publish.window)}
	}
	return b.opError("PublishToAsync", f.pending.Message.Subject, err)
}

// Done returns a channel that is closed when the outcome is there; Wait does not wait
// then, but for a conflict after a lost answer: it asks the stream what that means.
func (f *Future) Done() <-chan struct{} {
	if f.isZero() {
		return closedChan
	}
	return f.pending.Done()
}

// isZero reports whether f is nil or the zero Future.
func (f *Future) isZero() bool { return f == nil || f.stream == nil }

// Wait waits until the outcome is there and returns it: the result that PublishTo
// would have had. When ctx ends first that is its error, and Wait may be called again.
func (f *Future) Wait(ctx context.Context) (*Ack, error) {
	if f.isZero() {
		return nil, badArgument("Future.Wait", "future", "is nil; did PublishToAsync fail?")
	}
	if ctx == nil {
		return nil, noContext("Future.Wait")
	}
	ack, ok, err := f.pending.Wait(ctx)
	if !ok {
		return nil, &opError{"Future.Wait", contextError(ctx)}
	}
	if err == nil {
		return f.stream.result(ctx, &f.pending.Message, f.expect, ack, nil)
	}
	ctx, done := f.stream.bus.core.Bound(ctx)
	defer done()
	return f.stream.result(ctx, &f.pending.Message, f.expect, ack, err)
}
