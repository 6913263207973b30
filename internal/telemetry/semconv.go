package telemetry

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Attribute keys of the messaging conventions 1.44.0. They are defined here because the package of
// constants has another path in every version.
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

	keyCause  = attribute.Key("omnibus.dead_letter.cause") // this and the next are not of the conventions
	keyStream = attribute.Key("omnibus.stream.name")
)

var systemNATS = keySystem.String("nats")

// Operation names for Op.Name. Callers may use a few other names.
const (
	OpPublish = "publish" // send without an acknowledgement
	OpStore   = "store"   // send to a stream and wait for the acknowledgement
	OpRequest = "request" // send and wait for the reply
	OpProcess = "process" // run a handler
	OpAck     = "ack"     // settle: the message is handled
	OpNak     = "nak"     // settle: redeliver
	OpTerm    = "term"    // settle: do not redeliver
)

// opType is messaging.operation.type. opCounting is not of the conventions; it is for counters.
type opType uint8

const (
	opSend opType = iota
	opProcess
	opSettle
	opCounting
)

// String returns the value of messaging.operation.type.
func (o opType) String() string {
	return [...]string{"send", "process", "settle", ""}[o]
}

// kind returns the span kind for o. A send has the creation context of the message and is a PRODUCER.
// A request waits for an answer and is a CLIENT.
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
