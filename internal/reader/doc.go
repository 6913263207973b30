// Package reader reads the messages of a stream in order, without a consumer. It
// acknowledges nothing, stores nothing, and does not affect other readers. So it works with
// every retention policy. A consumer would not: a work queue refuses a second consumer on
// the same subjects, and every consumer counts as interest.
//
// A Reader fetches messages in batches if the stream allows direct get and the server is 2.11
// or newer, and one by one from the leader otherwise. Each message comes once, in the order of the stream, also if
// answers are lost or a replica is behind.
//
// States: a Reader has an end, the last sequence that the stream had when SetEnd was called.
// It reads up to the end, and SetEnd moves the end.
//
// Goroutines: none. All methods run on the goroutine of the caller. The subscription for
// batches has a channel, which the Reader reads on that goroutine.
//
// After a crash nothing is left: a Reader has no state on the server.
package reader
