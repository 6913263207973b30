package core

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/deadline"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/telemetry"
)

// Core is what the capabilities of one bus share. Its fields are set before the bus is
// used and are read-only then, except InMemory and Alone, which change when the bus moves to
// another server. Safe for concurrent use.
type Core struct {
	Link      *link.Link
	Outlet    *outlet.Outlet
	JetStream jetstream.JetStream
	Telemetry *telemetry.Telemetry // nil without tracing and metrics
	Counters  telemetry.Bus
	Logger    hclog.Logger
	Report    func(event.Event) // logs the event and tells the program

	Timeout      time.Duration // of a call whose context has no deadline
	DrainTimeout time.Duration // of a drain whose context has no deadline

	InMemory atomic.Bool // the embedded server keeps streams in memory
	Alone    atomic.Bool // no other process can reach the server

	// InReserve calls a function that stores a message of size bytes or declares a stream,
	// while the embedded server takes that beyond its limits; with half only within one half of
	// its reserve. It waits for its turn until ctx ends. Nil if there is none.
	InReserve func(ctx context.Context, size int, half bool, fn func() error) error

	Handlers context.Context // of all handlers; ends when a stopping bus waits no longer
	Stopping <-chan struct{} // closed when the bus begins to stop

	deadlines deadline.Pool
}

// WithTimeout gives ctx the bus's timeout if it has no deadline.
func (c *Core) WithTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return withDefault(ctx, c.Timeout)
}

// WithDrainTimeout gives ctx the drain timeout if it has no deadline.
func (c *Core) WithDrainTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return withDefault(ctx, c.DrainTimeout)
}

func withDefault(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// Bound is WithTimeout for a call that takes microseconds and does not keep the context.
// A tracer may keep it, so with telemetry the context is an ordinary one.
func (c *Core) Bound(ctx context.Context) (bounded context.Context, done func()) {
	if c.Telemetry != nil {
		return c.WithTimeout(ctx)
	}
	return c.deadlines.Bound(ctx, c.Timeout)
}

// Connected reports whether the connection to the server is up.
func (c *Core) Connected() bool { return c.Link.Conn().IsConnected() }

// WithReserve calls fn, which stores a message of size bytes in a side stream or declares one.
// If the server has no room, it calls fn again with the reserve of the embedded server.
func (c *Core) WithReserve(ctx context.Context, size int, fn func() error) error {
	return c.withReserve(ctx, size, false, fn)
}

// WithHalfReserve is WithReserve for what takes room and makes none. It leaves one half of the
// reserve to what makes room.
func (c *Core) WithHalfReserve(ctx context.Context, size int, fn func() error) error {
	return c.withReserve(ctx, size, true, fn)
}

// withReserve is both. Without a second call of fn its error is that of the first one, which
// says that nothing was stored.
func (c *Core) withReserve(ctx context.Context, size int, half bool, fn func() error) error {
	full := fn()
	if c.InReserve == nil || !jserr.IsFull(full) {
		return full
	}
	ctx, cancel := c.WithTimeout(ctx)
	defer cancel()
	called := false
	err := c.InReserve(ctx, size, half, func() error {
		called = true
		return fn()
	})
	if !called {
		return fmt.Errorf("%w; the reserve beyond the limit was not available: %v", full, err)
	}
	return err
}
