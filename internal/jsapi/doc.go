// Package jsapi is the JetStream client of a bus. It adds to that of nats.go that a call fails
// at once if the server refuses its request, or the subscription to its replies, because of a
// missing permission: then the error is a *link.RefusedError. nats.go waits until the context
// ends.
//
// In a cluster it repeats requests that can be repeated until there is a leader that answers
// (leader.go).
//
// It covers the requests that the library makes; others are those of nats.go. It has no state
// and no goroutines. A crash leaves nothing behind.
package jsapi
