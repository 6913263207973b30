// Package dedup keeps the message IDs that streams knew when they moved to another server. A
// server that restores a stream does not know which IDs it has seen within the Duplicates
// window. So the process that has moved the stream answers for it until the window is over.
// ADR 24 says why.
//
// # Promises
//
// An ID that a message of the stream had, and that was stored within the window, is found
// until the window is over. IDs are not kept as text but as half of their SHA-256, so each
// takes as much memory as any other, and a file has no content of the user. A Collector keeps
// at most so many IDs; when there are more, it keeps those that were stored last.
//
// # States
//
// A Collector gathers while streams are copied, from several goroutines. Finish makes IDs of
// it, which never change. They are written to a file, and read again after a restart. There
// are no goroutines.
package dedup
