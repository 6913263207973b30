package telemetry

import (
	"maps"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// maxSeries limits the cache. A program may use more patterns, for example because it makes subjects
// from IDs. Then the series above the limit are made for each message.
const maxSeries = 1024

// seriesKey is the part of an operation that is the same for many messages.
type seriesKey struct {
	typ                   opType
	literal               bool // the subject has no pattern
	name, template, group string
}

// series has the attributes and options for all messages of a seriesKey, so that a message allocates
// none of them. It never changes.
type series struct {
	typ      opType
	spanName string
	start    []trace.SpanStartOption
	base     []attribute.KeyValue // attributes of all its metrics
	duration []metric.RecordOption
	count    []metric.AddOption
}

// seriesMap never changes. addSeries stores a new one, so readers need no lock.
type seriesMap map[seriesKey]*series

// series returns the series of k from the cache, or makes it.
func (t *Telemetry) series(k seriesKey) *series {
	if m := t.cache.Load(); m != nil {
		if s := (*m)[k]; s != nil {
			return s
		}
	}
	return t.addSeries(k)
}

// addSeries makes the series of k and puts it into the cache if there is room.
func (t *Telemetry) addSeries(k seriesKey) *series {
	k.template = strings.Clone(k.template) // it may refer to a network buffer
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

// newSeries makes the series of k.
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

// baseAttributes returns the attributes that spans and metrics share.
func baseAttributes(k seriesKey) []attribute.KeyValue {
	kv := []attribute.KeyValue{systemNATS}
	kv = appendString(kv, keyOperationName, k.name)
	kv = appendString(kv, keyTemplate, k.template)
	return appendString(kv, keyGroup, k.group)
}

// startOptions returns the options for the start of a span. They have every attribute that a sampler
// may need.
func (t *Telemetry) startOptions(k seriesKey, base []attribute.KeyValue) []trace.SpanStartOption {
	kv := append(slices.Clip(base), keyOperationType.String(k.typ.String()))
	kv = appendString(kv, keyClientID, t.busName)
	if k.literal {
		kv = appendString(kv, keyDestination, k.template)
	}
	return []trace.SpanStartOption{trace.WithSpanKind(k.typ.kind(k.name)), trace.WithAttributes(kv...)}
}

// durationAttributes returns the attributes of a duration. The conventions require the operation type
// for all durations except that of processing, which has only one type.
func (s *series) durationAttributes(errorType string) metric.MeasurementOption {
	kv := s.base[:len(s.base):len(s.base)]
	if s.typ != opProcess {
		kv = appendString(kv, keyOperationType, s.typ.String())
	}
	return attributeSet(appendString(kv, keyErrorType, errorType))
}

// countAttributes returns the attributes of a counter.
func (s *series) countAttributes(errorType string) metric.MeasurementOption {
	return attributeSet(appendString(s.base[:len(s.base):len(s.base)], keyErrorType, errorType))
}

// attributeSet makes a set from a copy of kv. Making a set sorts its argument.
func attributeSet(kv []attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(kv...)
}

// appendString appends an attribute if v is not empty.
func appendString(kv []attribute.KeyValue, k attribute.Key, v string) []attribute.KeyValue {
	if v == "" {
		return kv
	}
	return append(kv, k.String(v))
}
