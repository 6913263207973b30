package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Op describes one operation on a message.
type Op struct {
	Name      string // what NATS calls it, one of the Op constants; empty: the operation's type
	Subject   string // the actual subject, for spans only; empty: unknown
	Template  string // the subject's pattern, or the subject itself where there is none; few different ones
	Group     string // queue group or durable; Send ignores it
	MessageID string // if known
	Size      int    // bytes of the body, before compression where both are known; 0: left out
}

// Send begins sending op's message. The returned context carries the span, to
// be given to Inject. Begin it after the checks that refuse a message: it
// counts attempts to send.
func (t *Telemetry) Send(ctx context.Context, op Op) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, opSend, op, nil)
}

// Process begins handling op's message, whose header is h, and counts it as
// consumed. The returned context is the handler's: it carries the span and the
// baggage.
func (t *Telemetry) Process(ctx context.Context, op Op, h map[string][]string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.process(ctx, op, h)
}

// Settle begins settling op's message. Give it the context that Process
// returned, or the span will be a trace of its own.
func (t *Telemetry) Settle(ctx context.Context, op Op) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, opSettle, op, nil)
}

func (t *Telemetry) process(ctx context.Context, op Op, h map[string][]string) (context.Context, Span) {
	ctx, links := t.adopt(ctx, h)
	return t.start(ctx, opProcess, op, links)
}

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
	return o.ctx, o.observed()
}

func (t *Telemetry) startSpan(ctx context.Context, s *series, op *Op, links []trace.Link) (context.Context, trace.Span) {
	options := s.start
	if len(links) > 0 {
		options = append(options[:len(options):len(options)], trace.WithLinks(links...))
	}
	ctx, span := t.tracer.Start(ctx, s.spanName, options...)
	if span.IsRecording() {
		describe(span, op)
	}
	return ctx, span
}

// describe sets what differs from message to message.
func describe(span trace.Span, op *Op) {
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
