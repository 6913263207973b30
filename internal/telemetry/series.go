package telemetry

import (
	"maps"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// maxSeries bounds the cache. A program that uses more patterns, say because it
// builds its subjects from IDs, still works: what is beyond is made anew each time.
const maxSeries = 1024

// seriesKey is all of an operation that does not change from message to message.
type seriesKey struct {
	typ                   opType
	literal               bool // the subject is its own template
	name, template, group string
}

// series holds what is the same for all messages of a seriesKey, so that a
// message allocates none of it. It is never changed.
type series struct {
	typ      opType
	spanName string
	start    []trace.SpanStartOption
	base     []attribute.KeyValue // of all its metrics
	duration []metric.RecordOption
	count    []metric.AddOption
}

// seriesMap is replaced, never changed: reading takes no lock.
type seriesMap map[seriesKey]*series

func (t *Telemetry) series(k seriesKey) *series {
	if m := t.cache.Load(); m != nil {
		if s := (*m)[k]; s != nil {
			return s
		}
	}
	return t.addSeries(k)
}

func (t *Telemetry) addSeries(k seriesKey) *series {
	k.template = strings.Clone(k.template) // it may be a slice of a network buffer
	k.group = strings.Clone(k.group)
	s := t.newSeries(k)
	t.mu.Lock()
	defer t.mu.Unlock()
	var next seriesMap
	if m := t.cache.Load(); m == nil {
		next = seriesMap{}
	} else if len(*m) >= maxSeries {
		return s
	} else {
		next = maps.Clone(*m)
	}
	next[k] = s
	t.cache.Store(&next)
	return s
}

func (t *Telemetry) newSeries(k seriesKey) *series {
	s := &series{typ: k.typ, spanName: strings.TrimSpace(k.name + " " + k.template)}
	s.base = baseAttributes(k)
	if t.metrics != nil {
		s.duration = []metric.RecordOption{s.durationAttributes("")}
		s.count = []metric.AddOption{s.countAttributes("")}
	}
	if t.tracer != nil {
		s.start = t.startOptions(k, s.base)
	}
	return s
}

func baseAttributes(k seriesKey) []attribute.KeyValue {
	kv := []attribute.KeyValue{systemNATS}
	kv = appendString(kv, keyOperationName, k.name)
	kv = appendString(kv, keyTemplate, k.template)
	return appendString(kv, keyGroup, k.group)
}

// startOptions returns what a span has from its start: all that a sampler may
// want to know.
func (t *Telemetry) startOptions(k seriesKey, base []attribute.KeyValue) []trace.SpanStartOption {
	kv := append(slices.Clip(base), keyOperationType.String(k.typ.String()))
	kv = appendString(kv, keyClientID, t.busName)
	if k.literal {
		kv = appendString(kv, keyDestination, k.template)
	}
	return []trace.SpanStartOption{trace.WithSpanKind(k.typ.kind(k.name)), trace.WithAttributes(kv...)}
}

// durationAttributes returns the attributes of a duration; the conventions
// want the operation's type on all but the one that is about a single type.
func (s *series) durationAttributes(errorType string) metric.MeasurementOption {
	kv := s.base[:len(s.base):len(s.base)]
	if s.typ != opProcess {
		kv = appendString(kv, keyOperationType, s.typ.String())
	}
	return attributeSet(appendString(kv, keyErrorType, errorType))
}

func (s *series) countAttributes(errorType string) metric.MeasurementOption {
	return attributeSet(appendString(s.base[:len(s.base):len(s.base)], keyErrorType, errorType))
}

// attributeSet copies kv, because making a set sorts what it is given.
func attributeSet(kv []attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(kv...)
}

func appendString(kv []attribute.KeyValue, k attribute.Key, v string) []attribute.KeyValue {
	if v == "" {
		return kv
	}
	return append(kv, k.String(v))
}
