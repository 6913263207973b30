package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Span is an operation under way. The zero value is one that nobody observes.
//
// It is one pointer, though that costs an allocation when somebody observes:
// the compiler keeps it in a register, while it copied a larger value around the
// nil check and made a publish without telemetry 15 ns slower.
type Span struct {
	op *operation
}

type operation struct {
	t      *Telemetry
	series *series
	span   trace.Span // nil: spans are off
	ctx    context.Context
	began  time.Time // zero: metrics are off
}

// observed returns the Span of o. Where nothing records, nothing is kept: the
// End of a span that was sampled out does nothing.
func (o operation) observed() Span {
	if o.t.metrics == nil && !o.span.IsRecording() {
		return Span{}
	}
	kept := o // only now to the heap
	return Span{op: &kept}
}

// End ends the operation, which failed if err is not nil, and records its span,
// duration and messages. Call it once. An error that was dealt with, so that
// the operation succeeded after all, is nil here. The text of err becomes the
// span's status; its class, as [errorType] names it, becomes error.type.
func (s Span) End(err error) {
	if s.op != nil {
		s.op.end(err)
	}
}

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

func endSpan(span trace.Span, err error, class string) {
	if err != nil && span.IsRecording() {
		span.SetAttributes(keyErrorType.String(class))
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
