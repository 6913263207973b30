// Package ownership lets several processes work on one durable whose messages keep an
// order by key. One of them owns the durable at a time: it takes the messages in and
// settles them. The others lend hands: the owner gives them messages to handle.
//
// Beside the stream S lies S-keys, with two messages for each durable:
//
//   - $OMNIBUS.keys.S.<durable>.claim says who owns it. Who takes it writes over the
//     claim that it saw, so of several only one succeeds. The sequence of that message
//     is the owner's epoch.
//   - $OMNIBUS.keys.S.<durable>.settled says what the owner has settled and may not
//     have acknowledged yet. The server stores it only while the claim is that of the
//     owner's epoch: that is the fence.
//
// What else they tell each other is not stored:
//
//   - $OMNIBUS.crew.S.<durable>.lead.<epoch> takes the requests of members to an owner:
//     beats and outcomes.
//   - $OMNIBUS.crew.S.<durable>.run.<member> takes what a member is to handle.
//   - $OMNIBUS.crew.S.<durable>.news says that the claim has changed.
//
// ADR 19 says why.
package ownership
