package bus

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/subject"
)

// HandlerOption changes how handlers are called: for Subscribe, Respond and
// Consume.
type HandlerOption interface {
	SubscribeOption
	RespondOption
	ConsumeOption
}

// CoreOption is for Subscribe and Respond.
type CoreOption interface {
	SubscribeOption
	RespondOption
}

// SubscribeOption changes one Subscribe.
type SubscribeOption interface{ onSubscribe(*handleOptions) }

// RespondOption changes one Respond.
type RespondOption interface{ onRespond(*handleOptions) }

// ConsumeOption changes one Consume.
type ConsumeOption interface{ onConsume(*handleOptions) }

// handleOptions is what the options of one subscription, responder or consumer
// say.
type handleOptions struct {
	concurrency    int
	middleware     []Middleware
	timeout        time.Duration
	codec          codec.Codec
	group          string
	grouped        bool // Queue was given
	pendingMsgs    int
	pendingBytes   int
	ackWait        time.Duration
	ackWaitGiven   bool
	retry          RetryPolicy
	key            keyMaker
	keyOption      string       // the option that said it
	keySaid        string       // the key for people; in all members the same
	keyToken       int          // of KeyByToken
	keyType        reflect.Type // of KeyBy's messages
	handled        reflect.Type // of the handler's
	stuckKey       StuckKey
	stuckGiven     bool
	start          start
	every          time.Duration // between two handler calls
	batch          *batch        // nil for handlers of one message
	batchSize      int           // 0 where it was not given
	batchWait      time.Duration
	batchWaitGiven bool
	mistakes
}

func newHandleOptions() *handleOptions {
	return &handleOptions{concurrency: 1, pendingMsgs: defaultPendingMsgs, pendingBytes: defaultPendingBytes,
		ackWait: defaultAckWait, retry: defaultRetry}
}

func (o *handleOptions) fail(option string, value any, reason string) {
	o.mistake(&OptionError{Option: option, Value: fmt.Sprint(value), Reason: reason})
}

type handlerOption func(*handleOptions)

func (f handlerOption) onSubscribe(o *handleOptions) { f(o) }
func (f handlerOption) onRespond(o *handleOptions)   { f(o) }
func (f handlerOption) onConsume(o *handleOptions)   { f(o) }

func (a asOption) onHandle(o *handleOptions) {
	if err := a.check(); err != nil {
		o.mistake(err)
		return
	}
	o.codec = a.codec
}

func (a asOption) onSubscribe(o *handleOptions) { a.onHandle(o) }
func (a asOption) onRespond(o *handleOptions)   { a.onHandle(o) }
func (a asOption) onConsume(o *handleOptions)   { a.onHandle(o) }

// Concurrency lets up to n handler calls run at once; the default is 1, which
// keeps the messages in order.
func Concurrency(n int) HandlerOption {
	return handlerOption(func(o *handleOptions) {
		if n < 1 || n > maxConcurrency {
			o.fail("Concurrency", n, fmt.Sprintf("must lie between 1 and %d", maxConcurrency))
			return
		}
		o.concurrency = n
	})
}

const maxConcurrency = 1 << 16

// Use wraps the handler. The first is the outermost; all are inside those of
// WithMiddleware. The option may be repeated.
func Use(mws ...Middleware) HandlerOption {
	return handlerOption(func(o *handleOptions) {
		for _, mw := range mws {
			if mw == nil {
				o.fail("Use", "nil", "leave it out")
				return
			}
		}
		o.middleware = append(o.middleware, mws...)
	})
}

// HandlerTimeout sets the deadline of each handler call's context. A call that
// ignores it is waited for all the same: nothing can end it, and its message is with
// nobody else until it returns. One that never does is named, with its message, in
// SubscriptionStats.Longest and Health (of consumers), and in the error of Drain.
func HandlerTimeout(d time.Duration) HandlerOption {
	return handlerOption(func(o *handleOptions) {
		if d <= 0 {
			o.fail("HandlerTimeout", d, "must be more than zero")
			return
		}
		o.timeout = d
	})
}

// Queue joins the queue group name: of its members, on all buses, one gets each
// message. Responders are in the group named after the bus unless told
// otherwise.
func Queue(name string) CoreOption {
	return handlerOption(func(o *handleOptions) {
		if p := subject.Check(name); p != nil {
			o.fail("Queue", fmt.Sprintf("%q", name), "is not a group's name: "+p.Reason)
			return
		}
		o.group, o.grouped = name, true
	})
}

// Messages that may wait for a core subscription's handler, as in nats.go.
const (
	defaultPendingMsgs  = 512 * 1024
	defaultPendingBytes = 64 << 20
)

// PendingLimits bounds what may wait for the handler: so many messages and so
// many bytes, the default being 524,288 and 64 MiB; -1 means no limit. What
// arrives beyond them is dropped, counted, and reported as a *SlowConsumerError.
func PendingLimits(msgs, bytes int) CoreOption {
	return handlerOption(func(o *handleOptions) {
		if msgs == 0 || bytes == 0 || msgs < -1 || bytes < -1 {
			o.fail("PendingLimits", fmt.Sprintf("%d, %d", msgs, bytes), "must be more than zero, or -1 for no limit")
			return
		}
		o.pendingMsgs, o.pendingBytes = msgs, bytes
	})
}

// typed turns a handler of T into one of raw messages: decode, validate, call.
func typed[T any](h Handler[T]) maker {
	return func(f *format, o *handleOptions) RawHandler {
		info := typeOf[T](f)
		return func(ctx context.Context, raw *RawMsg) error {
			m, err := decode[T](f, info, o.assumed(f, info, raw.Subject), raw)
			if err != nil {
				return &unreadable{err}
			}
			return h(ctx, m)
		}
	}
}

// maker makes a handler for a bus's format and the options of one subscription.
type maker func(f *format, o *handleOptions) RawHandler

// assumed is the codec of messages that name none.
func (o *handleOptions) assumed(f *format, info *typeInfo, subj string) codec.Codec {
	return f.codecFor(subj, info, o.codec)
}
