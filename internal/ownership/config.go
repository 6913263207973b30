package ownership

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/wire"
)

// Config describes how one process takes part in a durable with keys. All fields but RunBatch
// and Stopping are required. The functions may be called from several goroutines at once.
type Config struct {
	Link            *link.Link
	Stream, Durable string
	ID              string        // of this member, unique for each start; one token of a subject
	TTL             time.Duration // see TTLOf; at the start, it gets shorter with AckWait
	Workers         int           // messages, or batches, that this process handles at once
	RequestTimeout  time.Duration // for the reply to one request

	// WithReserve calls a function that stores a message of size bytes, and again with the
	// reserve of the server if it has no room. Nil if there is none.
	WithReserve func(ctx context.Context, size int, send func() error) error

	// Stopping is closed when no handler may begin any more, before Drain. Nil: never.
	Stopping <-chan struct{}

	// Run calls the handler for one message. It must not panic. It may end its goroutine.
	Run func(wire.Delivery) settle.Outcome
	// RunBatch calls the handler for several messages at once and sets as many outcomes. It must
	// not panic. It may end its goroutine; then it sets them all the same. Nil without batches.
	RunBatch func([]wire.Delivery, []settle.Outcome)
	// Exited returns the outcome of a call of Run that ended its goroutine.
	Exited func(wire.Delivery) settle.Outcome
	// Retrying reports that a message whose handler failed here for an owner elsewhere will
	// be tried again.
	Retrying func(wire.Delivery, error)
	// Cause names the kind of a failure. It travels to the owner as a settle.Failure.
	Cause func(error) string
	// Open opens the intake of a new owner. The intake starts later, with its Start.
	Open func(*Owner) (Intake, error)

	// OutcomeRefused reports an outcome that does not count: another process handles the
	// message too. The error says why. It is ErrUnknown if the outcome may count.
	OutcomeRefused func(*wire.Delivery, error)
	// Lost reports that another process has become the owner instead of this one.
	Lost func(error)
	// Failed reports an error that no call can return.
	Failed func(error)
	// Odd reports something read from others that is not what this library writes.
	Odd func(error)
	// Accepts returns why a message that an owner elsewhere assigned is none of the durable.
	Accepts func(*wire.Delivery) error
	// DurableDeleted reports whether the intake ended because the durable was deleted. Then
	// an owner removes the lease and the settle record instead of releasing the lease.
	DurableDeleted func() bool
}

// Intake is how an owner takes messages from the server. intake.Durable is one.
type Intake interface {
	Start()
	Drain(ctx context.Context) error
	Quiesce(context.Context) error   // begins nothing more; also before Start
	Resume()                         // ends Quiesce
	Abandon()                        // stops at once and settles nothing more
	Confirm(context.Context) error   // waits until the server has processed the acknowledgements sent before
	RunsCaller(context.Context) bool // reports whether the caller is one of its handlers
	Wait(context.Context) error      // after Abandon: waits until no handler runs
	AckWait() time.Duration          // of the durable, as far as known; it may change

	// Decide decides what becomes of a message whose handler another process has called. It
	// returns the outcome with the decision, and does not block.
	Decide(wire.Delivery, settle.Outcome) settle.Outcome
}
