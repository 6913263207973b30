// Package switchover moves all streams of a bus from its embedded server to another server or
// cluster, while the bus runs, and brings them home again. ADR 21 says why it does so in this
// way, and ADR 26 what differs on the way home (home.go, home_copy.go).
//
// # Promises
//
// No acknowledged message is lost, and no handler is called again for a message that was
// settled. Until the commit every failure leads back to the old server, and the copies at the
// target are deleted. After the commit nothing leads back.
//
// # States
//
//	preflight → journal → (precopy) → held → cut → copied → verified → moved → connected → released → settled
//	             └─────────────────── failure, cancel, MaxWait ──────────────┘→ returned
//
// On the way home streams are fenced between held and cut. The way back gives them their
// subjects back first.
//
// Run goes through all of them. What the bus does for them is the interface Bus; what this
// package does over connections of its own is the rest: the check for obstacles, the copies,
// their comparison, and the marks.
//
// # Copies
//
// A copy is a snapshot of the old server (stream, messages, consumers with all that is
// unacknowledged) which the new one restores. The sequences of messages and deliveries stay,
// so an acknowledgement sent to the new server counts. Each copy has the ID of the move in
// its metadata until the commit. What has that mark and no commit does not count.
//
// A large stream is copied in two parts: most of it in the phase precopy, while publishers go
// on and its consumers are held, and the rest in the hold (ADR 25). A live is such a copy:
//
//	bulk → following → complete → settled → as here
//	 └── failure → bulk, once      └── failure → a copy in the hold
//
// The other streams are copied in the hold. In a cluster their restores begin in the phase precopy,
// and get nothing but padding until the hold: the cluster has elected their leaders then (ADR 27,
// opened.go). Their consumers go on until the hold.
//
//	opened → filled → as here
//	 └── the stream has changed → a copy in the hold
//
// On the way home the entries of its consumers are rewritten when it begins, and once more before
// it is settled, since the snapshot of a cluster does not have what is unacknowledged (home_live.go).
//
// # Goroutines
//
// Run works on the goroutine of its caller. It starts one for each stream that is copied,
// compared or watched, at most maxParallel at a time, and one more that reads the message IDs of
// each stream that is copied. It waits for them. A live has a goroutine from the phase
// precopy until the copy phase or the way back, which wait for it; an opened restore has one, too.
// When a copy is complete a goroutine compares its consumers; the phase verify, or the way back,
// waits for it. An Undo has two while it tries.
//
// # After a crash
//
//	killed in                    the next start       the next switch
//	journal, held, cut           embedded             nothing to clean, or marked copies of precopy
//	the precopy                  embedded             deletes the marked copies; those without a leader are an obstacle until the cluster has elected one
//	copy, verify                 embedded             deletes the marked copies
//	moved and later              at the target        removes the marks
//
// On the way home, where the target is the embedded server:
//
//	killed in                    the next start
//	journal, precopy to verify   at the old servers; it ends the fence and removes the copies
//	moved and later              embedded, on the new folder; it marks what is left as committed
package switchover
