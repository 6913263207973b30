package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
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

// call calls the handler with m, the n-th message, and returns how it failed. It does not
// panic. A worker calls it.
func (r *handlerCall) call(m *RawMsg, n int64) error {
	if r.timeout > 0 || r.tel != nil {
		_, err := r.callIn(r.ctx, m, n)
		return err
	}
	return r.counted(r.ctx, m, n) // each further step costs a twentieth of a small message
}

// callIn is call with a context that is derived from that of all handlers. It also returns
// the context of the handler.
func (r *handlerCall) callIn(ctx context.Context, m *RawMsg, n int64) (context.Context, error) {
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	if r.tel != nil {
		return r.traced(ctx, m, n)
	}
	return ctx, r.counted(ctx, m, n)
}

// traced is counted within a span.
func (r *handlerCall) traced(ctx context.Context, m *RawMsg, n int64) (_ context.Context, err error) {
	ctx, span := r.tel.Process(ctx, telemetry.Op{Name: telemetry.OpProcess, Subject: m.Subject, Template: r.pattern,
		Group: r.group, MessageID: m.ID, Size: len(m.Data)}, m.Header)
	err = errExited
	defer func() { span.End(err) }()
	err = r.counted(ctx, m, n)
	return ctx, err
}

// counted calls the handler and counts the outcome. n is the number of the message. The
// clock is read for a sample of the messages, because that costs a tenth of a small one.
func (r *handlerCall) counted(ctx context.Context, m *RawMsg, n int64) (err error) {
	err = errExited
	defer func() {
		if err != nil {
			r.count(m, n, err)
		}
	}()
	if r.always || telemetry.Sampled(uint64(n)) {
		defer r.observe(time.Now())
	}
	err = guard(ctx, r.handle, m)
	return err
}

// observe records how long a call took that began at a time.
func (r *handlerCall) observe(began time.Time) {
	took := time.Since(began)
	r.counters.Latency.Observe(took)
	if r.always {
		r.busy.Add(int64(took))
	}
}

// count counts the failure of the n-th message, which is m.
func (r *handlerCall) count(m *RawMsg, n int64, err error) {
	if isPostponed(m, err) {
		r.counters.Postponed.Add(1)
		return
	}
	r.counters.Errors.Add(1)
	r.counters.Latest.Record(max(n-r.counters.Postponed.Load(), 1)) // among those that were tried
	if _, ok := errors.AsType[*PanicError](err); ok {
		r.counters.Panics.Add(1)
	}
}

// errExited is the outcome of a handler that ended its goroutine. Nothing can stop
// runtime.Goexit: functions do not return, only what is deferred still runs. So those who
// defer something about the outcome set it to errExited before the call. The owner of the
// goroutine (internal/dispatch, internal/intake) replaces it.
var errExited error = &PanicError{Value: ErrExited}

// guard calls h. A panic becomes a *PanicError. Each call of a handler or of a key function
// goes through it, on a worker.
func guard(ctx context.Context, h RawHandler, m *RawMsg) error {
	err := recovered(ctx, h, m)
	if err != nil {
		err = readable(err)
	}
	return err
}

func recovered(ctx context.Context, h RawHandler, m *RawMsg) (err error) {
	defer catch("handler", &err)
	return h(ctx, m)
}

// catch is for functions of the user. Deferred around a call of what, it turns a panic into a
// *PanicError.
func catch(what string, failed *error) {
	if v := recover(); v != nil {
		*failed = &PanicError{Value: v, Stack: debug.Stack(), what: what}
	}
}

// readable reads an error of the user. It returns err, or a *PanicError if a method of err
// panics, as those of a nil pointer do. After that everybody may read it.
func readable(err error) (safe error) {
	defer func() {
		if v := recover(); v != nil {
			safe = &PanicError{Value: fmt.Sprintf("the error it failed with, a %T, panicked when it was read: %v", err, v), Stack: debug.Stack()}
		}
	}()
	_ = err.Error()
	_ = errors.Is(err, noError{}) // calls Is and Unwrap of all that err wraps
	_, _ = errors.AsType[noError](err)
	return err
}

// noError is an error that nobody returns.
type noError struct{ error }
