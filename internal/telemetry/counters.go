package telemetry

import "sync/atomic"

// cacheLines separates counters that different goroutines write. It has two lines, because
// processors fetch lines in pairs.
type cacheLines [128]byte

// Bus has the counters of one bus. No counter ever decreases. Counters that publishers write have
// cache lines of their own. The zero value is ready to use. It must not be copied. Safe for
// concurrent use.
type Bus struct {
	_ cacheLines

	Published       atomic.Int64 // messages sent, by Publish or to a stream
	PublishedBytes  atomic.Int64 // size of their payloads, after compression
	PublishFailed   atomic.Int64 // messages that were refused or not sent
	Captured        atomic.Int64 // calls of Publish to a subject that a known stream stores
	Requests        atomic.Int64 // requests sent
	RequestErrors   atomic.Int64 // requests that got no reply or an error
	RawBytes        atomic.Int64 // size of the compressed payloads before compression
	CompressedBytes atomic.Int64 // size of the compressed payloads after compression

	_ cacheLines

	Unrouted    atomic.Int64 // messages without a matching handler in a Mux
	Reconnects  atomic.Int64 // reconnects
	Disconnects atomic.Int64 // lost connections
	Events      atomic.Int64 // events reported to the program

	_ cacheLines
}

// Handler has the counters of one subscription, responder or consumer. The queue counts the calls.
// The zero value is ready to use. It must not be copied. Safe for concurrent use.
type Handler struct {
	Redelivered atomic.Int64 // received messages that the server had delivered before
	Errors      atomic.Int64 // handler calls that returned an error or panicked
	Panics      atomic.Int64 // handler calls that panicked
	Postponed   atomic.Int64 // handler calls that postponed the message; they are not errors
	DeadLetters atomic.Int64 // messages stored as dead letters
	Removed     atomic.Int64 // messages that their stream removed before their next attempt
	Latency     Quantiles    // latency of the sampled handler calls
	Latest      Failures     // failures of the latest handler calls
}
