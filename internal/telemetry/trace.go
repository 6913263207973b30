package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Op is one operation on a message.
type Op struct {
	Name      string // one of the Op constants; empty: the operation type
	Subject   string // the actual subject, only for spans; empty: unknown
	Template  string // the pattern of the subject, or the subject if it has none; there must be few
	Group     string // the queue group or the durable; Send ignores it
	MessageID string // empty: unknown
	Size      int    // size of the payload in bytes, if possible before compression; 0: no such attribute
}

// Send starts the operation of sending a message. Pass the returned context, which has the span, to
// Inject. Call Send after the checks that refuse a message, because it counts attempts to send.
func (t *Telemetry) Send(ctx context.Context, op Op) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, opSend, op, nil)
}

// Process starts the operation of handling a message with the header h, and counts the message as
// consumed. The returned context, which has the span and the baggage, is for the handler.
func (t *Telemetry) Process(ctx context.Context, op Op, h map[string][]string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.process(ctx, op, h)
}

// Settle starts the operation of settling a message. Pass the context that Process returned, so that
// both are in the same trace.
func (t *Telemetry) Settle(ctx context.Context, op Op) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, opSettle, op, nil)
}

// process does the work of Process.
func (t *Telemetry) process(ctx context.Context, op Op, h map[string][]string) (context.Context, Span) {
	ctx, links := t.extract(ctx, h)
	return t.start(ctx, opProcess, op, links)
}

// start starts an operation of type typ.
func (t *Telemetry) start(ctx context.Context, typ opType, op Op, links []trace.Link) (context.Context, Span) {
	if op.Name == "" {
		op.Name = typ.String()
	}
	if typ == opSend {
		op.Group = ""
	}
	o := operation{t: t, ctx: ctx}
	o.series = t.series(seriesKey{
		typ: typ, literal: op.Subject == op.Template,
		name: op.Name, template: op.Template, group: op.Group,
	})
	if t.metrics != nil {
		o.began = time.Now()
	}
	if t.tracer != nil {
		o.ctx, o.span = t.startSpan(ctx, o.series, &op, links)
	}
	return o.ctx, o.asSpan()
}

// startSpan starts the OpenTelemetry span.
func (t *Telemetry) startSpan(ctx context.Context, s *series, op *Op, links []trace.Link) (context.Context, trace.Span) {
	options := s.start
	if len(links) > 0 {
		options = append(options[:len(options):len(options)], trace.WithLinks(links...))
	}
	ctx, span := t.tracer.Start(ctx, s.spanName, options...)
	if span.IsRecording() {
		setAttributes(span, op)
	}
	return ctx, span
}

// setAttributes sets the attributes that differ between messages.
func setAttributes(span trace.Span, op *Op) {
	kv := make([]attribute.KeyValue, 0, 3)
	if op.Subject != op.Template {
		kv = appendString(kv, keyDestination, op.Subject)
	}
	kv = appendString(kv, keyMessageID, op.MessageID)
	if op.Size > 0 {
		kv = append(kv, keyMessageBodySize.Int(op.Size))
	}
	if len(kv) > 0 {
		span.SetAttributes(kv...)
	}
}
