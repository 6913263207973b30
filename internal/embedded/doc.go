// Package embedded starts and stops the NATS server that runs inside the process.
//
// Start promises that the server accepts connections, that JetStream has read all streams,
// and that the store directory belongs to this process alone. Otherwise it returns an
// error, and nothing is left behind: no goroutine, no lock, no port.
//
// States: starting → running → stopped. Start goes through the first, Stop ends the second.
// A server is not started twice.
//
// Goroutines: one looks at the store directory (watch.go), one at clients that read too slowly
// (backlog.go), one at the leaf link (edge.go). They and those of the server end with Stop. The server reports why it cannot
// start only to its logger, and would then end the process. So the log keeps that line, and
// Start returns it as an error. The signal handlers of the server are off, because they would
// end the program.
//
// After a crash of the process the operating system releases the lock. The next Start
// finishes what the crash left half made (see storedir.Dir.Repair), before the server reads
// the directory.
//
// It is the only package besides the root's server.go that imports nats-server. Programs
// that call only Connect do not link it.
package embedded
