// Package storedir owns the directory in which a bus keeps its data. Of NATS it knows only
// how the server lays out the files of streams (streams.go).
//
// A server does not lock its store. Two servers on one directory both run, and the
// acknowledged messages of one of them are lost. So [Open] locks the directory and the file
// LOCK in it, gives it an identity that never changes, and refuses a directory that is not a
// bus directory. [Dir.Check] and [Folders] tell when an open directory or a part of it was
// removed, moved or replaced. The directory contains:
//
//	LOCK          locked while in use; never removed; the lock ends with its process
//	OWNER         who has the directory open, for the error text of another process
//	omnibus.json  the identity; it also says whether the streams were moved to another server
//	switch.json   the journal of such a move, while it is not finished, see [Move] and [Dir.Untold]
//	data/         the data of the server
//	home-*/       instead of data, when streams came home: the identity names the folder, see [OpenHome]
//	set-aside/    streams whose creation a killed process did not finish, see [Dir.Repair]
//
// States: a directory is open, from [Open] to [Dir.Close], or closed.
//
// Goroutines: none. All functions run on the goroutine of the caller.
//
// After a crash the operating system releases the lock. The next Open removes what a
// half-finished Open left, and the stale OWNER. Dir.Repair finishes or undoes what the
// server had begun with streams. The identity is written so that a power cut leaves either
// none or a complete one.
package storedir
