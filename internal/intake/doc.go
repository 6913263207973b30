// Package intake is the way in: it takes messages from the server, has a
// dispatch.Queue run their handlers, and settles them. It has two parts that share
// little more than the queue: Core for a core subscription, and Durable for one
// process's part in a durable consumer of a stream.
//
// # What Durable promises
//
// It asks the server for no more messages than its window has room for, so that the
// queue never refuses one. While a message is held (queued, running, or waiting for its
// next attempt) the server gets in-progress signals for it. The outcome of a handler
// call is decided once, in conclude: the message is acknowledged, tried again, kept for a
// later time, made a dead letter, or returned. So retries do not depend on the server.
// Once DurableConfig.Stopping is closed, it calls no handler and asks for no messages. It keeps
// what it has for Drain.
//
// Which of the held messages may run is the question of an order: unkeyed runs each one
// as it comes, keyed runs one message of a key at a time, in stream order. What waits behind a
// failing message of its key and does not fit here is stored by followers. Who may settle a
// message for good is the question of an authority: sole where this process has the
// consumer for itself, owned where several processes keep an order together.
//
// # States
//
// Core: open → draining → ended → closed. Durable: open → draining → closed, or
// open → closed when the consumer was deleted or the Durable is abandoned. Quiescing
// stops an open one for a while; Detach and Freeze do more (detach.go, holdings.go).
//
// # Goroutines
//
//   - nats.go's, one for each inbox: they bring messages and what the server says. In a
//     Durable they never wait for a handler. In a Core with a concurrency of one they run it.
//   - The workers of the queue run handlers, conclude their outcomes and write dead letters.
//   - The maintainer, one of a Durable, does what only time brings about: attempts that
//     are due, in-progress signals, requests that the server did not answer.
//   - The workers of followers store messages that wait for others, and have them come back.
//     They live while there is something to do; Drain waits for them.
//   - One closes an inbox that another has replaced before all had arrived there. It ends
//     within the timeout of the config, and with the Durable.
//   - The reporter of a Durable lives while there is something to report.
//
// Drain waits for the workers, the maintainer and the reporter, except for the one that
// called it.
//
// Durable.mu guards all state of a Durable, of its pullers and of its order. It is never
// held while a handler, a callback of the config or the server is waited for. A function
// whose name ends with Locked is called with it. The locks of the queue, of the lanes and
// of the isolation are taken after it.
//
// # After a crash
//
// Nothing here outlives the process. The server redelivers what was held once its
// AckWait has passed without a signal. What is to be known of such messages (attempts that
// failed, suspects of the crash) is kept by the config's Recovery, and what an owner
// settled by its Owner.
package intake
