package dispatch

import (
	"bytes"
	"context"
	"runtime"
	"strconv"
)

// goroutineID returns the number of the calling goroutine. Go offers it only as
// text, about a microsecond of work, so it is asked once per worker and not per
// message. Its one use is to see that a handler closes its own bus, for which
// Close() has no context to say so.
func goroutineID() uint64 {
	var buf [64]byte
	text := bytes.TrimPrefix(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	number, _, _ := bytes.Cut(text, []byte(" "))
	id, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil {
		panic("dispatch: runtime.Stack does not begin with a goroutine number: " + string(text))
	}
	return id
}

// Goroutine identifies a goroutine. The zero value is none.
type Goroutine uint64

// Here returns the calling goroutine.
func Here() Goroutine { return Goroutine(goroutineID()) }

// IsCaller reports whether g is the one that FromCaller put into ctx.
func (g Goroutine) IsCaller(ctx context.Context) bool { return g != 0 && uint64(g) == caller(ctx) }

// callerKey is the context key of the calling goroutine.
type callerKey struct{}

// FromCaller puts into the context which goroutine calls, so that a Wait further down,
// on whatever goroutine, can see that it was called from a handler. A caller
// that is there already stays.
func FromCaller(ctx context.Context) context.Context {
	if caller(ctx) != 0 {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, goroutineID())
}

// caller is the goroutine that FromCaller put into ctx, or 0.
func caller(ctx context.Context) uint64 {
	id, _ := ctx.Value(callerKey{}).(uint64)
	return id
}
