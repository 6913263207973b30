// Package storedir owns the directory in which a bus keeps its data. It knows
// nothing of NATS but how its server lays out the files of streams (streams.go).
//
// A server does not lock its store: two on one directory both run, and the
// acknowledged messages of one vanish. So [Open] takes a lock, gives the
// directory an identity that stays the same for its life, and refuses what is
// not a directory of ours. In it are
//
//	LOCK          locked while in use; never removed, frees itself with its process
//	OWNER         who has it open, for the error text of the next one
//	omnibus.json  the identity
//	data/         what belongs to the server
//	set-aside/    what a killed process had begun and never finished, see [Dir.Mend]
package storedir
