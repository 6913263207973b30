package consumer

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/telemetry"
	"github.com/omnibus-go/bus/internal/wire"
)

// Config describes one process's part in a durable consumer. Fields without a comment about
// their zero value are required.
type Config struct {
	Core    *core.Core
	Holders *Holders // of the bus

	Stream  sidestream.Stream
	Durable string
	Filters []string // what it handles; All for everything that the stream stores
	Routes  bool     // the handler refuses subjects that it is not for
	Start   Start    // zero: the first message, or where an existing durable is

	Concurrency int           // handler calls at once
	Interval    time.Duration // between the starts of two handler calls; 0 for none
	AckWait     time.Duration // 0 for DefaultAckWait, or that of an existing durable
	Policy      settle.Policy
	MaxCrashes  int // a message that crashed the process so often becomes a dead letter; 0 for no limit

	Key   Key   // zero: no order by key
	Batch Batch // zero: one message at a time

	Handler Handler
	Report  func(event.Event)
	Ended   func() // called once, when the consumer has ended

	// Deleted is called when the durable was deleted on the server, before the consumer ends. It
	// ends the contexts of the handlers.
	Deleted func()

	// DrainError makes the error of Drain. All calls of Drain return the same one.
	DrainError func(*UnfinishedError) error
}

// Key is how the messages of a durable are ordered by key.
type Key struct {
	Name  string                               // describes the key to people; the same in all processes
	Of    func(*wire.Delivery) (string, error) // the key of a message; nil without keys
	Block bool                                 // a dead letter blocks its key
}

// Batch is how several messages are handled at once.
type Batch struct {
	Size int           // messages at most; 0 for one message at a time
	Wait time.Duration // how long fewer of them wait for more
	Run  func(ds []wire.Delivery, outcomes []settle.Outcome)
}

// Handler is the program's handler. Its functions are called on the workers of an intake.
type Handler struct {
	Run      func(wire.Delivery) settle.Outcome // makes one attempt; it may end its goroutine
	Exited   func(wire.Delivery) settle.Outcome // the outcome of a call that did
	Cause    func(failure error) string         // the kind of a failure, as dead letters name it
	Context  context.Context                    // of all handlers
	Pattern  string                             // what it handles, for telemetry
	Counters *telemetry.Handler
}

// DefaultAckWait is the AckWait of a durable that nobody gave another one.
const DefaultAckWait = 30 * time.Second

// All is the filter of a durable that gets everything its stream stores.
const All = ">"

// atOnce returns how many messages are handled at once.
func (c *Config) atOnce() int { return c.Concurrency * max(c.Batch.Size, 1) }
