// Package telemetry counts and measures what a bus does. Counters and latency quantiles are always
// on. OpenTelemetry spans and metrics cost one nil check if no provider is set.
//
// Spans and metrics follow the OpenTelemetry semantic conventions for messaging, version 1.44.0
// (status "development"). That version has no page for NATS, so messaging.system has the custom
// value "nats". Where the conventions allow a choice:
//
//   - The name of a span is "{operation name} {subject pattern}", for example
//     "publish shop.orders.*". The operation type (send, process, settle) is an attribute.
//   - Publishing is one span of kind PRODUCER. Its context is sent with the message and is the
//     creation context of the message. There is no "create" span.
//   - A request waits for its reply, so its span has the kind CLIENT. Its operation name is
//     "request" and its type is "send".
//   - If there is no span around the processing of a message, the parent is the creation
//     context, so publish and process form one trace. If there is one, it is the parent. In
//     both cases the span links to the creation context.
//   - The conventions forbid "receive" spans for messages that a library prefetches. Handlers
//     get only "process" spans.
//   - Metrics have the pattern and never the actual subject.
//   - Attributes that are the same for all messages are set at the start of the span, so
//     samplers see them. The actual subject, the message ID and the size are set afterwards,
//     and only if the span records. So a span that is not sampled allocates nothing here.
//
// States: none. All counters belong to the bus, or to the handler or consumer. Goroutines: none.
// After a crash nothing is left.
package telemetry
