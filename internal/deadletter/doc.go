// Package deadletter lists, counts, discards and redrives the dead letters of a stream S:
// its dead-letter queue. They are in S-dead, where package sidestream stores them.
//
// # Promises
//
//   - Listing changes nothing. It ends with the last dead letter that there was when it
//     began.
//   - A redrive gives a message to the consumer that gave it up and to no other, once, in
//     the order of the stream. The message comes as if for the first time.
//   - A redrive or a discard never removes a newer dead letter of the same message. It
//     removes exactly the one it has read.
//   - A redrive is refused if the durable or its consumer in S-retry does not exist: nobody
//     would take the message.
//
// # States
//
// A Queue has no state and no goroutine. A dead letter is in one of these states:
//
//	state     S-dead   S-retry  next
//	dead      there    –        Redrive: copied. Discard: gone
//	copied    there    copy     returning, when Redrive goes on
//	returning –        copy     its handler succeeds: gone. It fails: dead, or copied while
//	                            the old dead letter is still there: the new one replaces it
//
// # After a crash
//
//	the process dies                         what happens
//	in Redrive, before the copy is stored    the dead letter stays
//	after the copy is stored, before the     both are there. The copy names the dead letter,
//	dead letter is removed                   so a second Redrive finds it and only removes
//	                                         the dead letter
//	in RedriveAs, at the same place          a second call with the same payload goes on; one
//	                                         with another payload is refused
//	in Discard                               what was removed stays removed
package deadletter
