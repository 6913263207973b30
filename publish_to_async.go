package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/plural"
)

// Future is the outcome of a PublishToAsync. Safe for concurrent use. A program that does not
// need the outcome may ignore it. Once the outcome is known, it does not hold the payload.
type Future struct {
	stream  *Stream
	expect  *outlet.Expectation
	pending outlet.Future
}

// PublishToAsync is like PublishTo, but it does not wait for the acknowledgement. It hands v to
// the connection and returns a Future. Messages of one goroutine are sent in the order of the
// calls. A stream that was just made, or has no leader, stores them in that order too. Three
// exceptions: a message is sent again because its answer was lost; messages were on their
// way when the stream lost its leader; the stream has had no leader for half a second, then a
// message of another subject may come first. v may be changed after the call.
//
// AsyncBuffer.Window limits how many messages may wait for an acknowledgement. If there are that
// many, PublishToAsync waits until ctx ends.
//
// The deadline of ctx is also the deadline of the acknowledgement; without one it is the
// timeout of the bus (WithTimeout). Cancelling ctx after the call does not take the message
// back. With MsgID or AutoID a message is sent again until the deadline when the answer is
// lost, also after a reconnect. Without them a lost answer is ErrUnknownOutcome. While the bus
// has no connection, messages wait in the window.
//
// Flush and Close wait for the outcomes. The call returns the errors that PublishTo returns
// before it sends, and ErrTimeout if the window stays full. The Future has all others.
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
		return &opError{"PublishToAsync", fmt.Errorf("%w: %s no acknowledgement yet; publish slower, or allow more with WithAsyncBuffer", translate(err), plural.Of(b.cfg.publish.window, "message has", "messages have"))}
	}
	return b.opError("PublishToAsync", f.pending.Message.Subject, err)
}

// Done returns a channel that is closed when the outcome is known. Then Wait returns at
// once, with one exception: if an answer was lost and the repeated message met a conflict,
// Wait asks the stream whether the first copy was stored.
func (f *Future) Done() <-chan struct{} {
	if f.isZero() {
		return closedChan
	}
	return f.pending.Done()
}

// isZero reports whether f is nil or the zero Future.
func (f *Future) isZero() bool { return f == nil || f.stream == nil }

// Wait waits for the outcome and returns what PublishTo would have returned. If ctx ends
// first, it returns the error of ctx, and may be called again.
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
	if lost := f.stream.checkKept("PublishToAsync", time.Millisecond, err); lost != nil {
		return nil, lost
	}
	if err == nil {
		return f.stream.result(ctx, &f.pending.Message, f.expect, ack, nil)
	}
	ctx, done := f.stream.bus.core.Bound(ctx)
	defer done()
	return f.stream.result(ctx, &f.pending.Message, f.expect, ack, err)
}
