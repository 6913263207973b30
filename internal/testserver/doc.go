// Package testserver runs a NATS server inside a test. It is for tests only.
//
// A server from New has no port and no JetStream unless an option asks for them. It
// shares nothing with other servers, so tests may run in parallel. It stops when the
// test ends, after all clients that Conn and Link returned. Each function that fails
// ends the test.
//
// A server without a port also runs in a testing/synctest bubble. One with JetStream
// needs Bubble instead of synctest.Test: the server reads the time from a ticker of the
// whole process, and that ticker must run outside the bubble.
//
// FreePorts finds ports for servers that a test starts in another way.
//
// States: running, stopped. Restart takes a stopped or running server back to running,
// with the same options, directory and port.
//
// Goroutines: those of the server. Stop waits for them.
package testserver
