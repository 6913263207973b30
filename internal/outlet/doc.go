// Package outlet sends everything that a bus sends. Each message passes the gate of the
// link, is counted, and is traced here.
//
// It offers five ways to send:
//
//   - Outlet.Send hands a message to the connection. It arrives at most once.
//   - Outlet.Request waits for one reply, and Outlet.Reply sends one.
//   - Outlet.Store and Outlet.StoreBatch wait for the acknowledgement of a stream. They
//     send a message with an ID again when the answer is lost. If nobody can say whether
//     a message was stored, the error is ErrUnknown.
//   - Async sends in the background and confirms many messages with one flush.
//   - Window stores many messages without waiting for each acknowledgement.
//
// States: Async and Window start with the first Add and end with Drain and Close. Between
// Quiesce and Resume an Outlet and an Async send nothing, and their callers wait.
//
// Goroutines: Send, Request, Reply, Store and StoreBatch run on the caller's goroutine.
// The comments of Async and Window list theirs.
//
// After a crash, messages in the buffer of an Async and outstanding messages of a Window
// are gone unless the server has them. Nothing here is kept on disk.
package outlet
