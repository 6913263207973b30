// Package discovery answers discovery requests for all responders of a bus, by the NATS
// micro protocol. A bus is one service with one endpoint for each responder. The protocol:
// https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md
//
// States of a Service: new → listening → ended. Start subscribes to the nine subjects of
// the protocol when the first responder comes. Drain ends the subscriptions.
//
// Service.starting is held while the subscriptions are opened or ended. Goroutines: a
// Service has none. Each request is answered on the goroutine of its
// subscription. Nothing is kept on disk: after a crash, a new process has a service with
// another ID.
package discovery
