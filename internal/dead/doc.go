// Package dead knows how a message that no handler finished is kept, and how one
// that was put aside comes back. Its functions are pure; they know no NATS.
//
// Beside a stream S lie two streams of the library:
//
//   - S-dead keeps the dead letters, one subject for each:
//     $OMNIBUS.dead.S.<durable>.<incarnation of S>.<sequence in S>.
//     A letter is written only where its subject has none. So writing it again
//     after a crash changes nothing, however long the process was down.
//   - S-retry holds what is to be handled once more, by the one durable that failed:
//     $OMNIBUS.retry.S.<durable>.<incarnation>.<sequence> is handled as soon as
//     possible, and a message on $OMNIBUS.later… becomes one of those at its time.
//     $OMNIBUS.note… is what a process left for the next one: see Began and GivenBack.
//
// The subject of a message with a key has one more token, for the key.
//
// A copy has the payload of the original and its headers. What else is known of the
// original is in headers of the copy. Headers that would mean something to the
// server, or to this package, get a prefix in the copy and lose it when it is restored.
package dead
