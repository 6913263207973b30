// Package streamdef declares streams: it compares a wanted definition with the stream on
// the server, and creates or changes the stream.
//
// It promises that declaring an existing stream never deletes messages or weakens the
// stream, unless AllowShrink is set. A refused change comes back as a *ConflictError with
// all refused fields and the messages that the change would delete; then nothing was
// changed. A definition with a lower revision than the stream changes nothing.
//
// A declaration goes through these steps (declare.go):
//
//	look up → not there → create
//	        → there     → compare (fields.go) → nothing to do
//	                                           → refuse (removal.go estimates what would go)
//	                                           → update, then look again
//
// The table in fields.go has one entry for each field of the server's configuration: how it
// is shown and what a change of it does. A wanted definition comes as an overlay: a closure
// that sets fields on the configuration that the server has. So the package does not know
// the public StreamConfig.
//
// There are no goroutines and no state besides the lock of Declarer: the server keeps the
// definition, and its metadata keep the revision. After a crash in the middle of a
// declaration the stream is as before or as wanted; the next declaration finishes it.
package streamdef
