// Package core holds what every capability of a bus stands on: the connection, the way out,
// the JetStream client, counters, timeouts and the report of events.
//
// A Core is made once, when the bus is opened, and does not change afterwards. It owns
// nothing and has no goroutines: the bus closes what it refers to.
package core
