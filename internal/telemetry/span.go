package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Span is an operation that has begun. The zero value records nothing.
//
// A Span is one pointer, although that costs an allocation if telemetry is on. The compiler keeps a
// pointer in a register. It copied a larger struct around the nil check, and that made a publish
// without telemetry 15 ns slower.
type Span struct {
	op *operation
}

// operation is the state of a Span.
type operation struct {
	t      *Telemetry
	series *series
	span   trace.Span // nil: spans are off
	ctx    context.Context
	began  time.Time // zero: metrics are off
}

// asSpan returns o as a Span. If nothing records, it returns the zero Span, because then End has
// nothing to do.
func (o operation) asSpan() Span {
	if o.t.metrics == nil && !o.span.IsRecording() {
		return Span{}
	}
	kept := o // the copy is on the heap; o is not
	return Span{op: &kept}
}

// End ends the operation and records its span, duration and message. The operation failed if err is
// not nil. Call End once. Pass nil if the operation succeeded after an error. The text of err
// becomes the status of the span, and its class (see [errorType]) becomes error.type.
func (s Span) End(err error) {
	if s.op != nil {
		s.op.end(err)
	}
}

// end does the work of End.
func (o *operation) end(err error) {
	var class string
	if err != nil {
		class = errorType(err)
	}
	if o.span != nil {
		endSpan(o.span, err, class)
	}
	if o.t.metrics != nil {
		o.t.metrics.record(o, time.Since(o.began), class)
	}
}

// endSpan ends the OpenTelemetry span.
func endSpan(span trace.Span, err error, class string) {
	if err != nil && span.IsRecording() {
		span.SetAttributes(keyErrorType.String(class))
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
