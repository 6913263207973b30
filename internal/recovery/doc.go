// Package recovery is the recovery log of one durable: what outlives a process of the
// messages that it did not finish. It implements intake.Recovery. See ADR 16.
//
// # What the log knows
//
//	part              stored as                        file
//	crash marks       S-retry, one message for each    log.go
//	                  handler call that may end the
//	                  process
//	handback records  S-retry, a few messages with     log.go
//	                  a list each
//	blocked keys      nothing of its own: the dead     blocked_keys.go
//	                  letters in S-dead and the
//	                  copies in S-retry
//
// # Promises
//
//   - A message that the process may have died of runs in isolation: nothing runs beside
//     it. After Config.MaxCrashes crashes in isolation it becomes a dead letter.
//   - A message that was returned in an orderly way is no suspect, and keeps the number of
//     its failed attempts.
//   - With Config.BlockKeys a message of a key with an earlier dead letter becomes a dead
//     letter too, without a handler call, so that a redrive can restore the order.
//   - If the server does not answer, a message waits or is a suspect. Both are safe.
//
// # States of a key
//
//	state      dead letters  copies in S-retry  a message of the key
//	free       none          no copy            runs
//	blocked    some          any                becomes a dead letter if one of them is
//	                                            earlier; else it runs
//	returning  none          some               from the stream: waits for the copies that
//	                                            are earlier; a copy: runs
//
// The log remembers which keys are not free, and asks the server before each message of
// such a key. So it does not matter who redrives or discards dead letters, and when.
//
// # Goroutines
//
// A Log has none. Its methods are called by the workers of an intake, several at once, and
// wait for the server, except MarkEnded. A mutex guards what it remembers.
//
// # After a crash
//
//	the process dies                       what happens
//	in the handler of a suspect            its crash mark stays: the next process counts it
//	in the handler of another message      that message and all that the process held are
//	                                       redelivered with a higher count: all are suspects
//	after the handler of a suspect         the mark may stay. The message is settled, or it
//	returned                               runs in isolation once more
//	before the handback record is stored   the returned messages are suspects, and their
//	                                       failed attempts are forgotten
//	after a dead letter is stored and      the message comes again, its own dead letter is
//	before the message is terminated       found, and it is terminated without a handler call
package recovery
