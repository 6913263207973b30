// Package dispatch runs messages: it decides which goroutine calls the handler and how
// many handlers run at once, and says when none runs any more. It knows no NATS.
//
// # What it promises
//
// A Queue runs each message it takes once, on at most as many goroutines as its
// concurrency, and in order where that is one. A message that has not begun when the queue
// stops is returned by Stop. With BeginUntil no pushed message begins after a moment. With a
// pacer messages begin one by one with a time in between; with a batcher several run at once,
// and with lanes beside it several of a key. Lanes keeps messages of the same key in order beside
// a queue, Isolation lets some of them run with nothing else. Both say which message comes
// next; the caller pushes it.
//
// # States
//
// Queue: open ⇄ quiesced → stopped, and open → stopped. Lanes: open ⇄ closed → stopped.
// Isolation: open → stopped.
//
// # Goroutines
//
// A Queue starts a worker when there is something to run, up to its concurrency. A worker
// ends when there is nothing; one of them, the idle worker, waits for more instead until
// Stop, since to start a goroutine costs more than many a handler. A handler may end the
// worker it runs on (runtime.Goexit): another worker takes its place. With a concurrency of
// one the source may run messages on its own goroutine, between Enter and Leave.
//
// Wait waits for what runs, except for the handler that called it: a caller is known by
// the number of its goroutine, see FromCaller. Stop waits for the idle worker alone.
//
// Each type has one lock. Under it a queue of batches calls its lanes; nothing else calls
// another type. The handler runs without it.
//
// # After a crash
//
// Nothing here outlives the process.
package dispatch
