// Package serverversion decides what a connected nats-server can do. It is the only place
// that knows which version brought what: each call that an older server would ignore, or do
// by half, asks Feature.Check before it sends anything.
//
// It decides by the version that the server names when a client connects. The API level in
// the same message is no help: nats-server 2.11 leaves it out.
//
// It has no state, no goroutines, and nothing to lose in a crash. docs/modes.md has the table
// for users; a test compares the two.
package serverversion
