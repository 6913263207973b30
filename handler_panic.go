package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
)

// ErrExited is the Value of the *PanicError of a handler that ended its goroutine with
// runtime.Goexit, as FailNow and Fatal of a test do, instead of returning.
var ErrExited = errors.New("bus: the handler ended its goroutine with runtime.Goexit, as t.FailNow and t.Fatal do; return an error instead")

// guard calls h and notes in failed how it failed. A panic becomes a *PanicError.
//
// So does runtime.Goexit. But nothing can stop that: those who called guard run what
// they have deferred, where they find failed, and no more. Whoever owns the goroutine
// replaces it.
func guard(ctx context.Context, h RawHandler, m *RawMsg, failed *error) {
	returned := false
	defer catch(&returned, failed)
	*failed = sound(h(ctx, m))
	returned = true
}

// catch, deferred, makes an error of a panic, and of a function that has not returned.
func catch(returned *bool, failed *error) {
	if v := recover(); v != nil {
		*failed = &PanicError{Value: soundValue(v), Stack: debug.Stack()}
	} else if !*returned {
		*failed = &PanicError{Value: ErrExited, Stack: debug.Stack()}
	}
}

// sound returns err, or a *PanicError where err panics when it is used, as a nil
// pointer may that a user returns as an error.
func sound(err error) error {
	if err == nil {
		return nil
	}
	if p := probe(err); p != nil {
		return p
	}
	return err
}

// probe asks err all that will be asked of it. It returns nil unless that panics.
func probe(err error) (unsound *PanicError) {
	defer func() {
		if v := recover(); v != nil {
			unsound = &PanicError{Value: fmt.Sprintf("the error it failed with, a %T, panicked when it was read: %v", err, v), Stack: debug.Stack()}
		}
	}()
	_ = err.Error()
	_ = errors.Is(err, errNone)
	_, _ = errors.AsType[*noneError](err)
	return nil
}

// soundValue is v, or its text where v is an error that is not sound.
func soundValue(v any) any {
	if err, ok := v.(error); ok && probe(err) != nil {
		return fmt.Sprintf("%v (%T)", v, v)
	}
	return v
}

// noneError is the type of errNone, which no other error is: who looks for it looks at
// all that an error wraps.
type noneError struct{}

func (*noneError) Error() string { return "bus: none" }

var errNone = &noneError{}
