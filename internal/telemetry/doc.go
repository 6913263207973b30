// Package telemetry counts and measures what a bus does: plain counters and
// latency quantiles that are always on, and OpenTelemetry spans and metrics
// that cost one nil check while no provider is set.
//
// Spans and metrics follow the OpenTelemetry semantic conventions for
// messaging, version 1.44.0 (status "development"). That version knows no
// NATS page, so messaging.system has the custom value "nats". Where the
// conventions leave a choice:
//
//   - A span is named "{operation name} {subject pattern}", such as
//     "publish shop.orders.*"; the operation type (send, process, settle) is an
//     attribute.
//   - Publishing is one span of kind PRODUCER whose context travels with the
//     message: it is the message's creation context. There is no "create" span.
//   - A request waits for its reply, so its span is of kind CLIENT; its
//     operation name is "request", its type "send".
//   - Processing one message outside any span: the parent is the message's
//     creation context, so publish and process form one trace. Inside a span,
//     that span is the parent. Both link to the creation context.
//   - The conventions forbid "receive" spans for messages that a library
//     fetched ahead. Handlers get "process" spans only.
//   - Metrics carry the pattern and never the actual subject.
//   - Attributes that do not change from message to message are there when the
//     span starts, for samplers; the actual subject of a pattern, message ID and
//     size are set afterwards, only on a recording span, so that a span sampled
//     out costs no allocation of ours.
package telemetry
