package bus

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/payload"
)

// Handler handles one message. nil means that the message is done. What an error means depends
// on the caller: Subscribe reports it, Consume tries again later. ctx ends at the deadline of
// the call (HandlerTimeout), or when a stopping bus has used up its drain timeout. A panic is
// an error (*PanicError). It is also an error if the handler ends its goroutine, as FailNow of
// a test does (ErrExited).
type Handler[T any] func(ctx context.Context, m *Msg[T]) error

// Responder answers one request. The requester receives the text of an error that Public made.
// For other errors it receives "internal error".
type Responder[Req, Resp any] func(ctx context.Context, m *Msg[Req]) (Resp, error)

// RawHandler handles one message that is not decoded.
type RawHandler func(ctx context.Context, m *RawMsg) error

// Middleware wraps the handling of messages: all handlers of a bus with WithMiddleware, or one
// with Use. It is called once for each subscription, responder and consumer, and must return
// a handler.
//
// The error that the outermost middleware returns decides what becomes of the message: to
// return nil instead of an error is to acknowledge. Panics pass through a middleware, and are
// caught outside of all, unless a middleware catches them. A middleware passes on its context
// or one that is derived from it. It may pass on another message.
type Middleware func(next RawHandler) RawHandler

// chain wraps h with mws. The first one is the outermost. option is for the error if one
// returns no handler.
func chain(h RawHandler, mws []Middleware, option string) (RawHandler, error) {
	for i, mw := range slices.Backward(mws) {
		if h = mw(h); h == nil {
			return nil, badArgument(option, fmt.Sprintf("middleware %d", i+1), "returned no handler")
		}
	}
	return h, nil
}

// typed turns a handler of T into one of raw messages: decode, validate, call.
func typed[T any](h Handler[T]) maker {
	return func(f *payload.Format, o *handlerOptions) RawHandler {
		info := payload.TypeOf[T](f)
		return func(ctx context.Context, raw *RawMsg) error {
			m, err := decode[T](f, info, o.codec, raw)
			if err != nil {
				return &unreadable{err}
			}
			return h(ctx, m)
		}
	}
}

// maker makes a handler for a bus's format and the options of one subscription.
type maker func(f *payload.Format, o *handlerOptions) RawHandler

// stoppingKey is the context key of the channel of Stopping.
type stoppingKey struct{}

// handlerContext is the context of all handlers of one bus. It has the channel of Stopping, so
// that no message needs a context of its own.
type handlerContext struct {
	context.Context
	stopping <-chan struct{}
}

func (c *handlerContext) Value(key any) any {
	if key == (stoppingKey{}) {
		return c.stopping
	}
	return c.Context.Value(key)
}

// Stopping returns a channel that is closed when the bus begins to stop. ctx is the context of
// a handler, or derived from it. The handler may finish early then, long before ctx ends. For
// another ctx the channel is nil, which blocks forever.
//
// Once the channel is closed, no message of a stream is given to a handler. Those that are left
// return to their stream, and that is no attempt. Only a handler that is called in the moment of
// the closing can find the channel closed. Core messages that have arrived are still handled.
func Stopping(ctx context.Context) <-chan struct{} {
	if ctx == nil {
		return nil
	}
	c, _ := ctx.Value(stoppingKey{}).(<-chan struct{})
	return c
}

// handlerOptions is what the options of one subscription, responder or consumer set for
// its handler.
type handlerOptions struct {
	concurrency int
	middleware  []Middleware
	timeout     time.Duration
	codec       codec.Codec
	group       queueGroup
	pending     pendingLimits
	optionErrors
}

// queueGroup is the queue group of a subscription.
type queueGroup struct {
	name string
	set  bool // by Queue
}

// pendingLimits bounds the messages of a subscription that wait for its handler. -1 means
// no limit.
type pendingLimits struct{ msgs, bytes int }

func newHandlerOptions() *handlerOptions {
	return &handlerOptions{concurrency: 1, pending: pendingLimits{defaultPendingMsgs, defaultPendingBytes}}
}

// fail records that the value of an option is wrong.
func (o *handlerOptions) fail(option string, value any, reason string) {
	o.addError(&OptionError{Option: option, Value: fmt.Sprint(value), Reason: reason})
}

// Messages that may wait for the handler of a core subscription, as in nats.go.
const (
	defaultPendingMsgs  = 512 * 1024
	defaultPendingBytes = 64 << 20
)

const maxConcurrency = 1 << 16
