// Package lifecycle is about how a bus and what lives on it stop, for good or for a while.
//
// Registry lists the live members of a bus. Close drains them, stage after stage. Quiesce
// stops them for a while: no handler call begins, those that run are waited for, what is
// published waits, and all state is kept. Resume goes on. StopOnce makes sure that something
// is stopped once, however many goroutines ask for it. Phases divides the time of a
// shutdown. Mutex is a mutex whose Lock honours a context, and Exclusive keeps work under
// such a mutex from lying across a Quiesce. Who decides the order of Close: Bus.Shutdown, in
// shutdown.go of the root package.
//
// States of a Registry: open ⇄ quiesced → closed, and open → closed. A closed one accepts no
// members. Close resumes a quiesced one first. A Quiesce that gives up leaves everything
// quiesced, so Resume follows each Quiesce, whatever it returned.
//
// Goroutines: Close and Quiesce start one for each member of a stage and wait for them. A
// Phases has one from the end of its context until Sending ends, at most 100 ms.
//
// Nothing here outlives the process: after a crash there is nothing to recover, and a bus
// that was quiesced starts open.
package lifecycle
