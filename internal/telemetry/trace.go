package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Op describes one operation on a message, or on a batch of them.
type Op struct {
	Name      string // what NATS calls it, one of the Op constants; empty: the operation's type
	Subject   string // the actual subject, for spans only; empty: unknown
	Template  string // the subject's pattern, or the subject itself where there is none; few different ones
	Group     string // queue group or durable; Send ignores it
	MessageID string // if known
	Size      int    // bytes of the body, before compression where both are known; 0: left out
	Count     int    // number of messages of a batch, even of one; 0: a single message, not a batch
	Counted   bool   // Process only: Receive has counted the messages already
}

// Send begins sending op's messages. The returned context carries the span, to
// be given to Inject. Begin it after the checks that refuse a message: it
// counts attempts to send.
func (t *Telemetry) Send(ctx context.Context, op Op) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, opSend, op, nil)
}

// Receive begins handing op's messages, whose headers are hs, to an application
// that pulled them, and counts them as consumed.
func (t *Telemetry) Receive(ctx context.Context, op Op, hs ...map[string][]string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.receive(ctx, op, hs)
}

// Process begins handling op's messages, whose headers are hs, and counts them
// as consumed unless Receive did. The returned context is the handler's: it
// carries the span and, of a single message, the baggage.
func (t *Telemetry) Process(ctx context.Context, op Op, hs ...map[string][]string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.process(ctx, op, hs)
}

// Settle begins settling op's messages. Give it the context that Process
// returned, or the span will be a trace of its own.
func (t *Telemetry) Settle(ctx context.Context, op Op) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, opSettle, op, nil)
}

func (t *Telemetry) receive(ctx context.Context, op Op, hs []map[string][]string) (context.Context, Span) {
	return t.start(ctx, opReceive, op, t.links(hs))
}

func (t *Telemetry) process(ctx context.Context, op Op, hs []map[string][]string) (context.Context, Span) {
	if len(hs) != 1 || op.Count > 0 {
		return t.start(ctx, opProcess, op, t.links(hs))
	}
	ctx, links := t.adopt(ctx, hs[0])
	return t.start(ctx, opProcess, op, links)
}

func (t *Telemetry) start(ctx context.Context, typ opType, op Op, links []trace.Link) (context.Context, Span) {
	if op.Name == "" {
		op.Name = typ.String()
	}
	if typ == opSend {
		op.Group = ""
	}
	o := operation{t: t, ctx: ctx, count: max(op.Count, 1), counted: op.Counted && typ == opProcess}
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
	kv := make([]attribute.KeyValue, 0, 4)
	if op.Subject != op.Template {
		kv = appendString(kv, keyDestination, op.Subject)
	}
	kv = appendString(kv, keyMessageID, op.MessageID)
	if op.Size > 0 {
		kv = append(kv, keyMessageBodySize.Int(op.Size))
	}
	if op.Count > 0 {
		kv = append(kv, keyBatchCount.Int(op.Count))
	}
	if len(kv) > 0 {
		span.SetAttributes(kv...)
	}
}
