package bus

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/omnibus-go/bus/internal/telemetry"
)

// handlerCall is what stands between a delivery and its handler, the same for
// subscriptions, responders and consumers: spans, counters, deadline, panics.
// Outside it the message is settled, inside it comes the middleware.
type handlerCall struct {
	ctx      context.Context // of all handlers of the bus
	pattern  string
	group    string
	handle   RawHandler
	timeout  time.Duration
	tel      *telemetry.Telemetry
	counters telemetry.Handler

	// Of responders only, whose statistics the micro protocol publishes.
	always    bool                   // time every message, not only samples
	busy      atomic.Int64           // nanoseconds in the handler
	lastError atomic.Pointer[string] // as requesters see it: anybody may read the statistics
}

// newHandlerCall composes the handler of one subscription. It returns an *OptionError
// where a middleware returns none.
func (b *Bus) newHandlerCall(pattern string, o *handlerOptions, mk maker) (*handlerCall, error) {
	handle, err := chain(mk(b.format, o), o.middleware, "Use")
	if err == nil {
		handle, err = chain(handle, b.cfg.middleware, "WithMiddleware")
	}
	if err != nil {
		return nil, err
	}
	return &handlerCall{
		ctx:     b.core.Handlers,
		pattern: pattern,
		group:   o.group.name,
		handle:  handle,
		timeout: o.timeout,
		tel:     b.core.Telemetry,
	}, nil
}

// call runs the handler on m, its n-th message, and notes in failed how it failed. It
// does not panic. Where the handler ends the goroutine it does not return, and what
// its caller has deferred finds failed.
func (r *handlerCall) call(m *RawMsg, n int64, failed *error) {
	if r.timeout > 0 || r.tel != nil {
		r.callIn(r.ctx, m, n, failed)
		return
	}
	r.timed(r.ctx, m, n, failed) // a twentieth of the time of a small message is in such steps
}

// callIn is call in a context made from that of the handlers. It returns the context
// in which the handler ran.
func (r *handlerCall) callIn(ctx context.Context, m *RawMsg, n int64, failed *error) context.Context {
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	if r.tel != nil {
		return r.traced(ctx, m, n, failed)
	}
	r.timed(ctx, m, n, failed)
	return ctx
}

func (r *handlerCall) traced(ctx context.Context, m *RawMsg, n int64, failed *error) context.Context {
	ctx, span := r.tel.Process(ctx, telemetry.Op{Name: telemetry.OpProcess, Subject: m.Subject, Template: r.pattern,
		Group: r.group, MessageID: m.ID, Size: len(m.Data)}, m.Header)
	defer func() { span.End(*failed) }()
	r.timed(ctx, m, n, failed)
	return ctx
}

// timed calls the handler and counts the outcome. n numbers the message: the
// clock is read for a sample of them, since it costs a tenth of a small message.
func (r *handlerCall) timed(ctx context.Context, m *RawMsg, n int64, failed *error) {
	defer r.count(m, n, failed)
	if r.always || telemetry.Sampled(uint64(n)) {
		defer r.observe(time.Now())
	}
	guard(ctx, r.handle, m, failed)
}

// observe notes how long a call took that began at a time.
func (r *handlerCall) observe(began time.Time) {
	took := time.Since(began)
	r.counters.Latency.Observe(took)
	if r.always {
		r.busy.Add(int64(took))
	}
}

// count counts the outcome of the n-th message, which is m.
func (r *handlerCall) count(m *RawMsg, n int64, failed *error) {
	if *failed == nil {
		return
	}
	if isPostponed(m, *failed) {
		r.counters.Postponed.Add(1)
		return
	}
	r.counters.Errors.Add(1)
	r.counters.Latest.Record(max(n-r.counters.Postponed.Load(), 1)) // among those that were tried
	if _, ok := errors.AsType[*PanicError](*failed); ok {
		r.counters.Panics.Add(1)
	}
}
