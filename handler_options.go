package bus

import (
	"fmt"
	"time"

	"github.com/omnibus-go/bus/internal/subject"
)

// HandlerOption changes how handlers are called. Subscribe, Respond and Consume take it.
type HandlerOption interface {
	coreOption
	ConsumeOption
}

// coreOption is an option of Subscribe and Respond.
type coreOption interface {
	SubscribeOption
	RespondOption
}

// SubscribeOption changes one Subscribe.
type SubscribeOption interface{ onSubscribe(*handlerOptions) }

// RespondOption changes one Respond.
type RespondOption interface{ onRespond(*handlerOptions) }

// handlerOption is an option of everything that calls handlers.
type handlerOption func(*handlerOptions)

func (f handlerOption) onSubscribe(o *handlerOptions) { f(o) }
func (f handlerOption) onRespond(o *handlerOptions)   { f(o) }
func (f handlerOption) onConsume(o *consumeOptions)   { f(&o.handlerOptions) }

// Concurrency sets how many handler calls may run at once. The default is 1, which keeps
// the messages in order. At most 65,536.
func Concurrency(n int) HandlerOption {
	return handlerOption(func(o *handlerOptions) {
		if n < 1 || n > maxConcurrency {
			o.fail("Concurrency", n, fmt.Sprintf("must lie between 1 and %d", maxConcurrency))
			return
		}
		o.concurrency = n
	})
}

// Use wraps the handler in middleware. The first is the outermost. All of them run inside
// the middleware of WithMiddleware. If Use is given several times, the later middleware
// runs inside the earlier one.
func Use(mws ...Middleware) HandlerOption {
	return handlerOption(func(o *handlerOptions) {
		for _, mw := range mws {
			if mw == nil {
				o.fail("Use", "nil", "leave it out")
				return
			}
		}
		o.middleware = append(o.middleware, mws...)
	})
}

// HandlerTimeout sets the deadline of each handler call's context. By default there is
// none. A handler that ignores its context is not interrupted: the bus waits for it and
// gives its message to nobody else. Such a handler and its message are named in the error
// of Drain and, for a consumer, in stats.Subscription.Longest and in Health.
func HandlerTimeout(d time.Duration) HandlerOption {
	return handlerOption(func(o *handlerOptions) {
		if d <= 0 {
			o.fail("HandlerTimeout", d, "must be more than zero")
			return
		}
		o.timeout = d
	})
}

// Queue joins a queue group. Each message goes to one subscription of the group, on
// whatever bus. Without Queue a responder is in the group named after its bus (WithName),
// and a subscription is in no group.
func Queue(name string) coreOption { //nolint:revive // callers only pass it on
	return handlerOption(func(o *handlerOptions) {
		if p := subject.Check(name); p != nil {
			o.fail("Queue", fmt.Sprintf("%q", name), "is not a group's name: "+p.Reason)
			return
		}
		o.group = queueGroup{name: name, set: true}
	})
}

// PendingLimits bounds how many messages and how many bytes may wait for the handler. The
// defaults are 524,288 messages and 64 MiB; -1 means no limit. Messages that exceed a limit
// are dropped, counted, and reported as event.SlowConsumer.
func PendingLimits(msgs, bytes int) coreOption { //nolint:revive // callers only pass it on
	return handlerOption(func(o *handlerOptions) {
		if msgs == 0 || bytes == 0 || msgs < -1 || bytes < -1 {
			o.fail("PendingLimits", fmt.Sprintf("%d, %d", msgs, bytes), "must be more than zero, or -1 for no limit")
			return
		}
		o.pending = pendingLimits{msgs: msgs, bytes: bytes}
	})
}
