// Package ownership lets several processes share one durable and keeps the order of its
// messages by key. See ADR 19 for the reasons.
//
// One process owns the durable at a time. It takes the messages from the server, assigns
// each to a free worker, and settles it. The other processes are members: they offer
// workers and report outcomes. The owner's own process is a member too.
//
// # Promises
//
//   - Only one owner can settle. A message is settled when the settle record has it, and
//     the server stores a record only while the lease has the owner's epoch (fence.go).
//   - Two messages of one key never run at once in one process. In two processes they do only
//     while one was suspended or cut off for a TTL: then its handlers that still run may overlap
//     with those of another process. The outcomes of the first are refused and reported.
//   - An outcome is reported as refused only if it does not count. If a reply was lost and
//     what is stored does not tell, it is reported as unknown.
//   - A message that a lost process had is handled again.
//
// # Files
//
// Ownership: lease.go (acquire, renew, release), fence.go and fence_write.go (what an
// owner settles through), settle_record.go, store.go (what is stored), subjects.go,
// protocol.go (the messages between members), owner.go.
//
// Sharing of the work: dispatcher.go (gives messages to free workers), assignment.go (a message
// that another process has), dispatcher_members.go (what the owner knows of the members),
// workers.go (run the handlers of one process), batch.go (batches, which the owner's own
// process handles).
//
// Both: member.go, member_drain.go, member_stats.go (one process's part).
//
// # States of a member
//
//	state      what it does                                  next state
//	new        receives nothing yet                          following, at Start
//	following  sends a heartbeat to the owner every TTL/4    owner silent for a TTL, or lease
//	                                                         released: owning, if it acquires the lease
//	owning     has an Owner; renews the lease every TTL/4    lease has another epoch: following
//	draining   refuses what has not begun, waits for what    left, when all has ended or the
//	           runs; an owner settles it                     context of Drain ends
//	left       has released the lease or sent its last
//	           heartbeat, unless handlers still run;
//	           takes part no more
//
// Once Config.Stopping is closed, a member offers no workers, begins nothing, assigns nothing and
// acquires no lease. Its state stays, until Drain.
//
// Drain may come in each state, also while a request for the lease is under way. The member
// waits for the reply and releases what it got.
//
// # States of an owner
//
//	state      what it does                                  next state
//	opened     reads the last settle record, opens the       intake started: assigning
//	           intake
//	assigning  assigns messages and settles them             lease not renewed for TTL/2: waiting;
//	                                                         lease lost: abandoned; Drain: draining
//	waiting    assigns nothing; what runs goes on            lease renewed: assigning; lost: abandoned
//	draining   takes nothing new, settles what runs          all settled: closed
//	abandoned  settles nothing; its handlers run to the end  closed, at once
//	closed     has no subscriptions and no goroutine
//
// # Goroutines
//
//	goroutine                        who waits for it
//	Member.run: the lease            Member.Drain
//	fence.writeRecords: the records  fence.close, which Owner.close calls
//	the queue of workers             Member.Drain, until its context ends
//	the intake's goroutines, which   Intake.Drain; after Abandon, Intake.Wait, which
//	call Owner.Run                   Member.Drain calls
//
// The callbacks of subscriptions run on goroutines of nats.go. They wait for no reply.
//
// # After a crash
//
//	what dies, and when                  what happens
//	a member                             after a TTL the owner assigns its messages again
//	the owner, before the record         its messages were not settled: the server redelivers
//	                                     them after AckWait
//	the owner, after the record and      the next owner reads the record, and acknowledges
//	before the acknowledgement           the message when it is redelivered, without a handler
//	the owner, before a member has its   the member reports that the outcome is unknown
//	reply to an outcome
//	the owner, after the record of a     the next owner reads the reason and
//	dead letter and before it is stored  writes it
//	the owner, while it is suspended     its records are refused, so it acknowledges nothing
//	the server                           the lease and the record are still stored; owner and
//	                                     members go on
package ownership
