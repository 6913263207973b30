// Package consumer is one process's part in a durable consumer: it declares the consumer on
// the server, takes its messages in, and pauses, rewinds, measures and ends it.
//
// # Promises
//
// Open declares the durable, or adopts the one that exists if that does what is asked for.
// Otherwise it changes nothing and returns a *ConflictError. Messages are taken by an
// intake.Durable of this process, or, if several processes keep the order of keys together,
// by a part of an ownership.Member (see shared.go). What becomes of a message is decided in
// package intake.
//
// Rewind resets the durable only while no acknowledgement can be under way: the server judges
// an acknowledgement by the sequence of its message alone, so a late one would count for the
// message that is sent again.
//
// # States
//
// open → ended. A Drain, a Stop, the end of the bus, or the deletion of the consumer on the
// server ends it. Ended is final. A Rewind replaces the intake while open.
//
// # Locks and goroutines
//
// Consumer.mu guards the present intake. Consumer.rewinds is held by a Rewind, and while the
// consumer is quiesced, so that neither lies across the other. Drain ends a Rewind and waits
// for that. The package starts one goroutine: it drains the consumer after it was deleted on
// the server. It ends with the intake. Handlers run on the goroutines of package dispatch.
//
// # After a crash
//
// The server redelivers what the process had after AckWait. If no other process can reach the
// server, the first consumer of the durable in the next process takes it back at once
// (takeback.go). What package recovery stored says which of these messages may have ended the
// process. A pause of Rewind ends by itself soon
// after the deadline of the call.
package consumer
