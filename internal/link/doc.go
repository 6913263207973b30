// Package link owns the one connection of a bus: how it is dialled, the gate that
// everything outgoing passes, flushing, and what the connection reports.
//
// A Link promises that the connection comes back by itself for as long as it lives, and
// that no peer can hold up a write for long. Cut and Lead move it to another server
// while its users live on, in two steps, with time for other work between
// them. Gate lets whoever stops the bus wait until nobody publishes, and whoever
// quiesces the bus make publishers wait.
//
// States of a Link: connecting → connected ⇄ disconnected → closed, and from both →
// aborted → closed. Cut and Lead go connected → cut → connected. States of a Gate:
// open ⇄ held → shut.
//
// Goroutines: those of nats.go, which call the hooks and callbacks; and one for each
// session of ahead, which Close of the connection ends. Close does not wait for nats.go's
// callbacks.
//
// A crash leaves nothing behind here: what was published and not flushed is lost.
//
// The package never calls the nats.go functions that take a timeout instead of a context
// (Flush, FlushTimeout, Request, NextMsg, Drain): they keep their timers in a pool that is
// shared by the whole process, and a timer made inside a testing/synctest bubble kills the
// program when it is used outside.
package link
