// Package sidestream owns the streams that the library keeps beside a stream S.
//
//	stream   has                                            made by
//	S-dead   the dead letters of all durables of S          Open
//	S-retry  per durable: messages that come back, and      Open
//	         the records of package recovery
//	S-keys   per durable with keys: the lease and the       DeclareKeys
//	         settle record of package ownership
//
// # Subjects
//
//	$OMNIBUS.dead.S.<durable>.<incarnation of S>.<sequence in S>   in S-dead: a dead letter
//	$OMNIBUS.retry.…   in S-retry: handled as soon as possible, by that durable only
//	$OMNIBUS.later.…   in S-retry: becomes a message on retry.… at its time
//	                   With a key and without a time: it waits until Followers returns it
//	$OMNIBUS.note.…    in S-retry: see StartMark and HandbackRecords
//	$OMNIBUS.keys.S.<durable>.…   in S-keys
//
// The subject of a copy of a message with a key ends with one more token, for the key.
// The incarnation is the time at which S was created, because a stream that is created
// again repeats its sequences.
//
// # Promises
//
//   - A copy is stored only if its subject has no message. So storing it again after a
//     crash changes nothing, however long the process was down.
//   - A copy has the payload and the headers of the original. Headers that mean something
//     to the server or to this package get a prefix in the copy, and lose it when the copy
//     is restored.
//   - A copy is removed by the position at which it was read. A copy that was stored since stays.
//   - A stream that somebody deleted is created again when the next copy is stored.
//   - A stream of the program that only has the name of a side stream is not touched.
//     Open and DeclareKeys fail then with a *ForeignStreamError.
//   - DeleteAll removes the three streams. DeleteDurable removes what a durable has in
//     S-retry and S-keys. Its dead letters stay.
//
// # States and goroutines
//
// A Store is ready after Open and needs no closing. It has no goroutine. Its only state is
// the incarnation of S, which changes when S was created again.
//
// # After a crash
//
//	the process dies                          what happens
//	after the dead letter is stored and       the server redelivers the message. It fails
//	before the message is terminated          again; the dead letter is found, and the
//	                                          message is terminated.
//	after a retry is deferred and before      the server redelivers the message. If it fails
//	the message is acknowledged               again the deferred copy is found. If it
//	                                          succeeds the copy is handled too: at least once.
//	after a follower is stored as a Retry     both are found. The Retry is not handled before the
//	and before its copy is removed            copy is removed: it is stored again, and returns later.
//	between two streams of Open               the next Open creates the missing ones.
//	within DeleteAll or DeleteDurable         the next call goes on with what is left.
//	before RemoveLeftovers                    a copy may stay that was stored just after DeleteDurable.
package sidestream
