package bus

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// effect is what a change of a field does to what is stored.
type effect int

const (
	keeps   effect = iota // nothing is removed, and nothing is less safe
	labels                // nobody's behaviour depends on it: it may change back and forth
	shrinks               // messages may be removed, now or later, be less safe, or no longer be taken
	remakes               // only a new stream has it
)

// field is a part of the configuration of a stream.
type field struct {
	name   string
	set    func(c *StreamConfig, js *jetstream.StreamConfig) // what c says of it; nil where only Raw says something
	show   func(js *jetstream.StreamConfig) string           // equal texts mean the same
	effect func(have, want *jetstream.StreamConfig) effect   // of a change
	level  int                                               // the API level of the servers that know it
}

// streamFields are all of the server's fields but the name, so that nothing that is
// set by anybody is overlooked.
var streamFields = []field{
	{name: "Subjects", set: setSubjects, show: showSubjects, effect: subjectsEffect},
	{name: "Description", set: func(c *StreamConfig, js *jetstream.StreamConfig) {
		js.Description = cmp.Or(c.Description, js.Description)
	},
		show: func(js *jetstream.StreamConfig) string { return quoted(js.Description) }, effect: always(labels)},
	{name: "Metadata", set: setMetadata, show: showMetadata, effect: always(labels)},
	{name: "Storage", set: setStorage, show: func(js *jetstream.StreamConfig) string { return js.Storage.String() }, effect: always(remakes)},
	{name: "Retention", set: setRetention, show: func(js *jetstream.StreamConfig) string { return js.Retention.String() }, effect: retentionEffect},
	{name: "Discard", set: setDiscard, show: showDiscard, effect: discardEffect},

	limit("MaxMsgs", func(c *StreamConfig) int64 { return c.MaxMsgs }, func(js *jetstream.StreamConfig) *int64 { return &js.MaxMsgs }),
	limit("MaxBytes", func(c *StreamConfig) int64 { return c.MaxBytes }, func(js *jetstream.StreamConfig) *int64 { return &js.MaxBytes }),
	limit("MaxAge", func(c *StreamConfig) time.Duration { return c.MaxAge }, func(js *jetstream.StreamConfig) *time.Duration { return &js.MaxAge }),
	limit("MaxMsgsPerSubject", func(c *StreamConfig) int64 { return c.MaxMsgsPerSubject }, func(js *jetstream.StreamConfig) *int64 { return &js.MaxMsgsPerSubject }),
	limit("MaxMsgSize", func(c *StreamConfig) int32 { return c.MaxMsgSize }, func(js *jetstream.StreamConfig) *int32 { return &js.MaxMsgSize }),
	limit("MaxConsumers", nil, func(js *jetstream.StreamConfig) *int { return &js.MaxConsumers }),
	amount("Replicas", func(c *StreamConfig) int { return c.Replicas }, func(js *jetstream.StreamConfig) *int { return &js.Replicas }),
	amount("Duplicates", func(c *StreamConfig) time.Duration { return c.Duplicates }, func(js *jetstream.StreamConfig) *time.Duration { return &js.Duplicates }),
	{name: "SubjectDeleteMarkerTTL", set: func(c *StreamConfig, js *jetstream.StreamConfig) {
		js.SubjectDeleteMarkerTTL = cmp.Or(c.SubjectDeleteMarkerTTL, js.SubjectDeleteMarkerTTL)
	}, show: func(js *jetstream.StreamConfig) string { return js.SubjectDeleteMarkerTTL.String() }, effect: always(keeps), level: 1},

	{name: "Mirror", set: setMirror, show: func(js *jetstream.StreamConfig) string { return showSource(js.Mirror) }, effect: mirrorEffect},
	{name: "Sources", set: setSources, show: func(js *jetstream.StreamConfig) string { return orNone(showSources(js)) }, effect: sourcesEffect},
	{name: "SubjectTransform", set: setTransform, show: func(js *jetstream.StreamConfig) string { return asJSON(js.SubjectTransform) }, effect: always(keeps)},
	{name: "Republish", set: setRepublish, show: func(js *jetstream.StreamConfig) string { return asJSON(js.RePublish) }, effect: always(keeps)},
	{name: "CompressAtRest", set: func(c *StreamConfig, js *jetstream.StreamConfig) {
		if c.CompressAtRest {
			js.Compression = jetstream.S2Compression
		}
	}, show: func(js *jetstream.StreamConfig) string { return js.Compression.String() }, effect: always(keeps)},

	// What is switched on, and off again: the last two say what that does.
	flag("Counters", func(c *StreamConfig) bool { return c.Counters }, func(js *jetstream.StreamConfig) *bool { return &js.AllowMsgCounter }, remakes, remakes).since(2),
	flag("MessageTTL", func(c *StreamConfig) bool { return c.MessageTTL }, func(js *jetstream.StreamConfig) *bool { return &js.AllowMsgTTL }, keeps, remakes).since(1),
	flag("AtomicBatches", func(c *StreamConfig) bool { return c.AtomicBatches }, func(js *jetstream.StreamConfig) *bool { return &js.AllowAtomicPublish }, keeps, keeps).since(2),
	flag("AllowMsgSchedules", nil, func(js *jetstream.StreamConfig) *bool { return &js.AllowMsgSchedules }, keeps, remakes).since(2),
	flag("AllowBatchPublish", nil, func(js *jetstream.StreamConfig) *bool { return &js.AllowBatchPublish }, keeps, keeps).since(4),
	flag("AllowRollup", nil, func(js *jetstream.StreamConfig) *bool { return &js.AllowRollup }, keeps, keeps),
	flag("AllowDirect", nil, func(js *jetstream.StreamConfig) *bool { return &js.AllowDirect }, keeps, keeps),
	flag("MirrorDirect", nil, func(js *jetstream.StreamConfig) *bool { return &js.MirrorDirect }, keeps, keeps),
	flag("NoAck", nil, func(js *jetstream.StreamConfig) *bool { return &js.NoAck }, shrinks, keeps),
	flag("Sealed", nil, func(js *jetstream.StreamConfig) *bool { return &js.Sealed }, shrinks, remakes),
	flag("DenyDelete", nil, func(js *jetstream.StreamConfig) *bool { return &js.DenyDelete }, keeps, remakes),
	flag("DenyPurge", nil, func(js *jetstream.StreamConfig) *bool { return &js.DenyPurge }, keeps, remakes),
	{name: "Placement", show: func(js *jetstream.StreamConfig) string { return asJSON(js.Placement) }, effect: always(keeps)},
	{name: "ConsumerLimits", show: func(js *jetstream.StreamConfig) string { return asJSON(&js.ConsumerLimits) }, effect: always(keeps)},
	{name: "FirstSeq", show: func(js *jetstream.StreamConfig) string { return fmt.Sprint(max(js.FirstSeq, 1)) }, effect: always(remakes)},
	{name: "PersistMode", show: func(js *jetstream.StreamConfig) string { return js.PersistMode.String() }, effect: always(remakes), level: 2},
}

// limit is a field of which less removes more, and nothing positive is no limit.
func limit[N int | int32 | int64 | time.Duration](name string, from func(*StreamConfig) N, at func(*jetstream.StreamConfig) *N) field {
	f := field{name: name,
		show: func(js *jetstream.StreamConfig) string {
			if n := *at(js); n > 0 {
				return fmt.Sprint(n)
			}
			return "unlimited"
		},
		effect: func(have, want *jetstream.StreamConfig) effect {
			if lowered(*at(have), *at(want)) {
				return shrinks
			}
			return keeps
		}}
	if from != nil {
		f.set = func(c *StreamConfig, js *jetstream.StreamConfig) {
			if n := from(c); n != 0 {
				*at(js) = max(n, 0) // which the server takes for none
			}
		}
	}
	return f
}

// lowered compares limits.
func lowered[N int | int32 | int64 | time.Duration](have, want N) bool {
	return want > 0 && (have <= 0 || want < have)
}

// amount is a field of which more is safer.
func amount[N int | int32 | int64 | time.Duration](name string, from func(*StreamConfig) N, at func(*jetstream.StreamConfig) *N) field {
	return field{name: name,
		set:  func(c *StreamConfig, js *jetstream.StreamConfig) { *at(js) = cmp.Or(from(c), *at(js)) },
		show: func(js *jetstream.StreamConfig) string { return fmt.Sprint(*at(js)) },
		effect: func(have, want *jetstream.StreamConfig) effect {
			if *at(want) < *at(have) {
				return shrinks
			}
			return keeps
		}}
}

// flag is a field that is on or off.
func flag(name string, from func(*StreamConfig) bool, at func(*jetstream.StreamConfig) *bool, on, off effect) field {
	f := field{name: name,
		show: func(js *jetstream.StreamConfig) string { return fmt.Sprint(*at(js)) },
		effect: func(_, want *jetstream.StreamConfig) effect {
			if *at(want) {
				return on
			}
			return off
		}}
	if from != nil {
		f.set = func(c *StreamConfig, js *jetstream.StreamConfig) { *at(js) = *at(js) || from(c) }
	}
	return f
}

func (f field) since(level int) field {
	f.level = level
	return f
}

func always(e effect) func(have, want *jetstream.StreamConfig) effect {
	return func(have, want *jetstream.StreamConfig) effect { return e }
}

// setSubjects keeps the order of those that are there.
func setSubjects(c *StreamConfig, js *jetstream.StreamConfig) {
	if len(c.Subjects) == 0 {
		return
	}
	if len(missing(js.Subjects, c.Subjects)) > 0 {
		js.Subjects = slices.Clone(c.Subjects)
		return
	}
	js.Subjects = slices.Concat(js.Subjects, missing(c.Subjects, js.Subjects))
}

func showSubjects(js *jetstream.StreamConfig) string {
	return orNone(strings.Join(slices.Sorted(slices.Values(js.Subjects)), " "))
}

func subjectsEffect(have, want *jetstream.StreamConfig) effect {
	if len(missing(have.Subjects, want.Subjects)) > 0 {
		return shrinks
	}
	return keeps
}

func setStorage(c *StreamConfig, js *jetstream.StreamConfig) {
	switch c.Storage {
	case FileStorage:
		js.Storage = jetstream.FileStorage
	case MemoryStorage:
		js.Storage = jetstream.MemoryStorage
	}
}

func setRetention(c *StreamConfig, js *jetstream.StreamConfig) {
	switch c.Retention {
	case LimitsRetention:
		js.Retention = jetstream.LimitsPolicy
	case WorkQueueRetention:
		js.Retention = jetstream.WorkQueuePolicy
	case InterestRetention:
		js.Retention = jetstream.InterestPolicy
	}
}

// retentionEffect follows the server, which changes nothing from or to work queues.
func retentionEffect(have, want *jetstream.StreamConfig) effect {
	switch {
	case have.Retention == jetstream.WorkQueuePolicy || want.Retention == jetstream.WorkQueuePolicy:
		return remakes
	case want.Retention == jetstream.InterestPolicy:
		return shrinks
	}
	return keeps
}

func setDiscard(c *StreamConfig, js *jetstream.StreamConfig) {
	switch c.Discard {
	case DiscardOld:
		js.Discard, js.DiscardNewPerSubject = jetstream.DiscardOld, false
	case DiscardNew:
		js.Discard, js.DiscardNewPerSubject = jetstream.DiscardNew, false
	case DiscardNewPerSubject:
		js.Discard, js.DiscardNewPerSubject = jetstream.DiscardNew, true
	}
}

func showDiscard(js *jetstream.StreamConfig) string {
	if js.DiscardNewPerSubject {
		return js.Discard.String() + "PerSubject"
	}
	return js.Discard.String()
}

// discardEffect takes a refused message for safer than a removed one.
func discardEffect(have, want *jetstream.StreamConfig) effect {
	if have.DiscardNewPerSubject && !want.DiscardNewPerSubject || want.Discard < have.Discard {
		return shrinks
	}
	return keeps
}

// missing returns what of a is not in b.
func missing(a, b []string) []string {
	var m []string
	for _, s := range a {
		if !slices.Contains(b, s) {
			m = append(m, s)
		}
	}
	return m
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }

func orNone(s string) string { return cmp.Or(s, "none") }

// asJSON shows what has parts.
func asJSON[T any](v *T) string {
	if v == nil {
		return "none"
	}
	text, _ := json.Marshal(v) // of plain values
	return string(text)
}
