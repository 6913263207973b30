// Package core holds what every capability of a bus stands on: the connection, the way out,
// the JetStream client, counters, timeouts and the report of events.
//
// A Core is made once, when the bus is opened, and does not change afterwards, except for
// where its server is. It is safe for concurrent use. It promises that each call that waits for the server has a deadline,
// if its context comes from WithTimeout, WithDrainTimeout or Bound. It owns nothing, and has
// no states and no goroutines: the bus closes what it refers to. A crash leaves nothing
// behind here.
package core
