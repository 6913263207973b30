// Package stats has what bus.Stats returns. A Bus can be written as JSON: the names are those
// of the fields in lower case with underscores, as the NATS server writes its own, and a
// time.Duration is a number of nanoseconds.
package stats

import (
	"fmt"
	"time"
)

// Latency says how long handler calls took. The quantiles are exact to about 6 %. Of fast
// subscriptions the bus times only a sample of the calls: the first 64, then one in 16.
type Latency struct {
	Samples int64         `json:"samples"`
	P50     time.Duration `json:"p50"`
	P90     time.Duration `json:"p90"`
	P99     time.Duration `json:"p99"`
	Max     time.Duration `json:"max"`
}

// Subscription has the statistics of one subscription, responder or consumer.
type Subscription struct {
	Subject       string `json:"subject"`
	Queue         string `json:"queue"`          // queue group; empty without one
	Stream        string `json:"stream"`         // of a consumer
	Durable       string `json:"durable"`        // of a consumer
	Owner         bool   `json:"owner"`          // of a consumer with keys that processes share: this process owns the durable and gives messages to the others
	Received      int64  `json:"received"`       // messages given to the handler
	Handled       int64  `json:"handled"`        // handler calls that returned nil
	HandlerErrors int64  `json:"handler_errors"` // handler calls that failed, panics included
	Postponed     int64  `json:"postponed"`      // of a consumer: handler calls that returned Postpone
	Panics        int64  `json:"panics"`
	Dropped       int64  `json:"dropped"`      // messages lost at the pending limits
	Redelivered   int64  `json:"redelivered"`  // of a consumer: messages that the server had delivered before
	DeadLetters   int64  `json:"dead_letters"` // of a consumer: messages that became dead letters
	Removed       int64  `json:"removed"`      // of a consumer: messages that were removed from the stream before their next attempt, so that there was none
	InFlight      int    `json:"in_flight"`    // handler calls that run now
	// Lag is how many messages of the stream the consumer has not finished, in all
	// processes. OldestAge is the age of the oldest of them, or 0 if it is not known yet. The
	// numbers are up to 10 s old, or up to a minute while there was nothing to do.
	// Consumer.Lag asks the server.
	Lag          int           `json:"lag"`
	OldestAge    time.Duration `json:"oldest_age"`
	Longest      Call          `json:"longest"` // of a consumer: the handler call that has run for longest
	Pending      int           `json:"pending"` // messages in this process that wait for the handler
	PendingBytes int           `json:"pending_bytes"`
	Latency      Latency       `json:"latency"`
}

// Bus has the statistics of a bus since it was opened. The sums include subscriptions that
// have ended. Subscriptions lists the live ones, sorted by stream, durable, subject and queue;
// those without a stream come first.
type Bus struct {
	Published      int64 `json:"published"`       // messages sent, stored or not, without requests
	PublishedBytes int64 `json:"published_bytes"` // their payloads as sent
	PublishFailed  int64 `json:"publish_failed"`  // messages refused, or not sent
	Captured       int64 `json:"captured"`        // Publish into subjects that a known stream stores
	AsyncPending   int   `json:"async_pending"`   // messages in PublishAsync's buffer
	Requests       int64 `json:"requests"`
	RequestErrors  int64 `json:"request_errors"` // requests without a reply, or with an error as reply
	Received       int64 `json:"received"`
	Handled        int64 `json:"handled"`
	HandlerErrors  int64 `json:"handler_errors"`
	Postponed      int64 `json:"postponed"`    // handler calls that returned Postpone
	Dropped        int64 `json:"dropped"`      // messages lost by slow subscriptions
	DeadLetters    int64 `json:"dead_letters"` // messages that became dead letters
	Removed        int64 `json:"removed"`      // messages that their stream removed before their next attempt
	Unrouted       int64 `json:"unrouted"`     // messages for which a Mux had no handler
	InFlight       int   `json:"in_flight"`
	Disconnects    int64 `json:"disconnects"`
	Reconnects     int64 `json:"reconnects"`
	Events         int64 `json:"events"` // reported to the log and WithEvents
	// CompressionRatio is the size of the compressed payloads before compression, divided by
	// their size after it: 3 means that a third is left. It is 0 if there were none.
	CompressionRatio float64        `json:"compression_ratio"`
	Subscriptions    []Subscription `json:"subscriptions"`
}

// Call is a handler call that has not returned.
type Call struct {
	Subject  string        `json:"subject"`  // of its message; of a batch the first one's; empty if no handler runs
	Sequence uint64        `json:"sequence"` // of the same message
	Duration time.Duration `json:"duration"`
}

func (r Call) String() string {
	return fmt.Sprintf("message %d on %s for %v", r.Sequence, r.Subject, r.Duration.Round(time.Millisecond))
}
