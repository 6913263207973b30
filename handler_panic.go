package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
)

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
	defer catch(&err)
	return h(ctx, m)
}

// catch is for functions of the user. Deferred around a call, it turns a panic into a
// *PanicError.
func catch(failed *error) {
	if v := recover(); v != nil {
		*failed = &PanicError{Value: v, Stack: debug.Stack()}
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
