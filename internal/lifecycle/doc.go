// Package lifecycle is about how a bus and what lives on it stop.
//
// Registry lists the live members of a bus and drains them, stage after stage. StopOnce
// makes sure that something is stopped once, however many goroutines ask for it. Phases
// divides the time of a shutdown. Mutex is a mutex whose Lock honours a context. Who
// decides the order of Close: Bus.Shutdown, in shutdown.go of the root package.
//
// States of a Registry: open → closed. A closed one accepts no members.
//
// Goroutines: Close starts one for each member of a stage and waits for them. A Phases has
// one from the end of its context until Sending ends, at most 100 ms.
//
// Nothing here outlives the process: after a crash there is nothing to recover.
package lifecycle
