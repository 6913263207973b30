package telemetry

import "sync/atomic"

// cacheLines keeps counters that different goroutines write apart: two lines,
// because processors fetch them in pairs.
type cacheLines [128]byte

// Bus counts what one bus does. The zero value is ready to use, every field is
// safe for concurrent use, and none ever goes down. What publishers write has
// cache lines of its own. It must not be copied.
type Bus struct {
	_ cacheLines

	Published       atomic.Int64 // messages sent, stored or not
	PublishedBytes  atomic.Int64 // their bodies as sent, so after compression
	PublishFailed   atomic.Int64 // messages refused or not sent
	Captured        atomic.Int64 // Publish into a subject that a known stream stores
	Requests        atomic.Int64 // requests sent
	RequestErrors   atomic.Int64 // requests that ended without a reply, or with an error as reply
	RawBytes        atomic.Int64 // bodies that were compressed: their size before
	CompressedBytes atomic.Int64 // and after

	_ cacheLines

	Unrouted    atomic.Int64 // messages that no handler of a Mux wanted
	Reconnects  atomic.Int64 // connections won back
	Disconnects atomic.Int64 // connections lost
	Events      atomic.Int64 // events reported to the user

	_ cacheLines
}

// Handler counts what one subscription, responder or consumer does. The zero
// value is ready to use and every field is safe for concurrent use. The queue
// counts the calls themselves. It must not be copied.
type Handler struct {
	Redelivered atomic.Int64 // messages taken in that the server had delivered before
	Errors      atomic.Int64 // handler calls that returned an error or panicked
	Panics      atomic.Int64 // handler calls that panicked
	Postponed   atomic.Int64 // handler calls that did not try the message; no errors
	DeadLetters atomic.Int64 // messages given up and kept as dead letters
	Latency     Quantiles    // of the sampled handler calls
	Latest      Failures     // of the latest of them
}
