package telemetry

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Attribute keys of the messaging conventions 1.44.0, spelt out here because
// the package of constants for them changes its path with every version.
const (
	keySystem          = attribute.Key("messaging.system")
	keyOperationName   = attribute.Key("messaging.operation.name")
	keyOperationType   = attribute.Key("messaging.operation.type")
	keyDestination     = attribute.Key("messaging.destination.name")
	keyTemplate        = attribute.Key("messaging.destination.template")
	keyGroup           = attribute.Key("messaging.consumer.group.name")
	keyClientID        = attribute.Key("messaging.client.id")
	keyMessageID       = attribute.Key("messaging.message.id")
	keyMessageBodySize = attribute.Key("messaging.message.body.size")
	keyErrorType       = attribute.Key("error.type")

	keyCause  = attribute.Key("omnibus.dead_letter.cause") // ours, as the next
	keyStream = attribute.Key("omnibus.stream.name")
)

var systemNATS = keySystem.String("nats")

// Operation names for Op.Name. Callers may use others; there must be few.
const (
	OpPublish = "publish" // send to whoever listens
	OpStore   = "store"   // send to a stream, which acknowledges
	OpRequest = "request" // send and wait for the reply
	OpProcess = "process" // run a handler
	OpAck     = "ack"     // settle: handled
	OpNak     = "nak"     // settle: deliver again
	OpTerm    = "term"    // settle: never deliver again
)

// opType is messaging.operation.type; counting is our own, for plain counters.
type opType uint8

const (
	opSend opType = iota
	opProcess
	opSettle
	opCounting
)

func (o opType) String() string {
	return [...]string{"send", "process", "settle", ""}[o]
}

// kind returns the span kind for o. A send carries the message's creation
// context and is a PRODUCER, but a request waits for an answer like any CLIENT.
func (o opType) kind(name string) trace.SpanKind {
	switch {
	case o == opSend && name != OpRequest:
		return trace.SpanKindProducer
	case o == opProcess:
		return trace.SpanKindConsumer
	default:
		return trace.SpanKindClient
	}
}
