package oteltest

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
	"go.opentelemetry.io/otel/trace/noop"
)

// Span is a finished span.
type Span struct {
	Name        string
	Kind        trace.SpanKind
	SpanContext trace.SpanContext
	Parent      trace.SpanContext // invalid for a root span
	Links       []trace.Link
	Attributes  []attribute.KeyValue // in the order in which they were set; the last one of a key counts
	AtStart     int                  // how many of Attributes it had at its start
	Status      codes.Code
	Description string // of Status
	Begin, End  time.Time
}

// Attr returns the value of an attribute as text, "" if s has none.
func (s Span) Attr(key string) string {
	for _, kv := range slices.Backward(s.Attributes) {
		if string(kv.Key) == key {
			return kv.Value.String()
		}
	}
	return ""
}

// ChildOf reports whether p is the parent of s.
func (s Span) ChildOf(p Span) bool {
	return s.Parent.SpanID() == p.SpanContext.SpanID() && s.SameTrace(p)
}

// LinksTo reports whether s has a link to o.
func (s Span) LinksTo(o Span) bool {
	return slices.ContainsFunc(s.Links, func(l trace.Link) bool {
		return l.SpanContext.SpanID() == o.SpanContext.SpanID() && l.SpanContext.TraceID() == o.SpanContext.TraceID()
	})
}

// SameTrace reports whether s and o belong to the same trace.
func (s Span) SameTrace(o Span) bool {
	return s.SpanContext.TraceID() == o.SpanContext.TraceID()
}

// Spans returns the finished spans in the order of their end.
func (r *Recorder) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.spans)
}

// Span returns the first finished span with that name, and whether there is one.
func (r *Recorder) Span(name string) (Span, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.spans, func(s Span) bool { return s.Name == name })
	if i < 0 {
		return Span{}, false
	}
	return r.spans[i], true
}

// Open returns how many recording spans have not ended. At the end of a test it must be 0.
func (r *Recorder) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// started counts a new span, and reports whether it is sampled.
func (r *Recorder) started() (sampled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.unsampled {
		r.open++
	}
	return !r.unsampled
}

// finished records a span that has ended.
func (r *Recorder) finished(s Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
	r.spans = append(r.spans, s)
}

// tracerProvider makes tracers that record.
type tracerProvider struct {
	embedded.TracerProvider
	r *Recorder
}

func (p tracerProvider) Tracer(name string, opts ...trace.TracerOption) trace.Tracer {
	c := trace.NewTracerConfig(opts...)
	p.r.addScope(Scope{name, c.InstrumentationVersion(), c.SchemaURL()})
	return tracer{r: p.r}
}

// tracer starts spans that record.
type tracer struct {
	embedded.Tracer
	r *Recorder
}

func (t tracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	c := trace.NewSpanStartConfig(opts...)
	parent := trace.SpanContextFromContext(ctx)
	if c.NewRoot() {
		parent = trace.SpanContext{}
	}
	sampled := t.r.started()
	sc := newSpanContext(parent, sampled)
	if !sampled {
		ctx = trace.ContextWithSpanContext(ctx, sc)
		return ctx, trace.SpanFromContext(ctx)
	}
	s := &span{r: t.r, rec: Span{
		Name: name, Kind: trace.ValidateSpanKind(c.SpanKind()), SpanContext: sc, Parent: parent,
		Links: slices.Clone(c.Links()), Attributes: slices.Clone(c.Attributes()), AtStart: len(c.Attributes()),
		Begin: time.Now(),
	}}
	return trace.ContextWithSpan(ctx, s), s
}

var lastID atomic.Uint64

// newSpanContext returns a span context with a new span ID. Without a parent it has a new trace ID.
func newSpanContext(parent trace.SpanContext, sampled bool) trace.SpanContext {
	c := trace.SpanContextConfig{TraceID: parent.TraceID(), TraceState: parent.TraceState()}
	id := lastID.Add(1)
	binary.BigEndian.PutUint64(c.SpanID[:], id)
	if !parent.IsValid() {
		binary.BigEndian.PutUint64(c.TraceID[:], 0x6f6d6e69)
		binary.BigEndian.PutUint64(c.TraceID[8:], id)
	}
	c.TraceFlags = c.TraceFlags.WithSampled(sampled)
	return trace.NewSpanContext(c)
}

// span is a recording span. Methods that it does not implement do nothing. Safe for concurrent use.
type span struct {
	noop.Span
	r *Recorder

	mu    sync.Mutex
	ended bool
	rec   Span
}

// edit changes s unless it has ended.
func (s *span) edit(change func(*Span)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		change(&s.rec)
	}
}

func (s *span) End(...trace.SpanEndOption) {
	s.edit(func(rec *Span) {
		s.ended = true
		rec.End = time.Now()
		s.r.finished(*rec)
	})
}

func (s *span) IsRecording() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended
}

func (s *span) SpanContext() trace.SpanContext       { return s.rec.SpanContext }
func (s *span) TracerProvider() trace.TracerProvider { return s.r.TracerProvider() }
func (s *span) SetName(name string)                  { s.edit(func(rec *Span) { rec.Name = name }) }
func (s *span) AddLink(l trace.Link)                 { s.edit(func(rec *Span) { rec.Links = append(rec.Links, l) }) }

func (s *span) SetAttributes(kv ...attribute.KeyValue) {
	s.edit(func(rec *Span) { rec.Attributes = append(rec.Attributes, kv...) })
}

func (s *span) SetStatus(code codes.Code, description string) {
	s.edit(func(rec *Span) { rec.Status, rec.Description = code, description })
}
