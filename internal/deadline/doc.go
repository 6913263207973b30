// Package deadline makes contexts for calls that take microseconds.
//
// It promises that a call whose context has no deadline ends after a timeout, without the
// five allocations of context.WithTimeout. The callee must not keep the context after the
// call. A context is free, in use, or ended. A context that ended is not used again.
//
// It has no goroutine of its own: the runtime's timer calls deadline.end. A timer that is
// made in a testing/synctest bubble must stay in that bubble, so a Pool belongs to one bus
// and not to the process. After a crash nothing is left.
package deadline
