package streamdef

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// effect is what a change of a field does to the stored messages and to the stream.
type effect int

const (
	keeps     effect = iota // deletes nothing, and nothing becomes less safe
	shrinks                 // messages may be deleted now or later, become less safe, or be stored no more
	recreates               // the server cannot make it: only a new stream has it
)

// field is one field of the server's configuration of a stream.
type field struct {
	name   string                                          // as users know it
	show   func(js *jetstream.StreamConfig) string         // the value as text; equal texts mean equal values
	effect func(have, want *jetstream.StreamConfig) effect // of a change
	level  int                                             // the API level of the servers that know the field; 0 for all
}

// fields are all fields of the server's configuration, except the name. A test compares
// them with jetstream.StreamConfig, so that no difference is overlooked.
var fields = []field{
	{name: "Subjects", show: showSubjects, effect: subjectsEffect},
	{name: "Description", show: func(js *jetstream.StreamConfig) string { return fmt.Sprintf("%q", js.Description) }, effect: always(keeps)},
	{name: "Metadata", show: showMetadata, effect: always(keeps)},
	{name: "Storage", show: func(js *jetstream.StreamConfig) string { return js.Storage.String() }, effect: always(recreates)},
	{name: "Retention", show: func(js *jetstream.StreamConfig) string { return js.Retention.String() }, effect: retentionEffect},
	{name: "Discard", show: showDiscard, effect: discardEffect},

	limit("MaxMsgs", func(js *jetstream.StreamConfig) int64 { return js.MaxMsgs }),
	limit("MaxBytes", func(js *jetstream.StreamConfig) int64 { return js.MaxBytes }),
	limit("MaxAge", func(js *jetstream.StreamConfig) time.Duration { return js.MaxAge }),
	limit("MaxMsgsPerSubject", func(js *jetstream.StreamConfig) int64 { return js.MaxMsgsPerSubject }),
	limit("MaxMsgSize", func(js *jetstream.StreamConfig) int32 { return js.MaxMsgSize }),
	limit("MaxConsumers", func(js *jetstream.StreamConfig) int { return js.MaxConsumers }),
	amount("Replicas", func(js *jetstream.StreamConfig) int { return js.Replicas }),
	amount("Duplicates", func(js *jetstream.StreamConfig) time.Duration { return js.Duplicates }),
	{name: "SubjectDeleteMarkerTTL", show: func(js *jetstream.StreamConfig) string { return js.SubjectDeleteMarkerTTL.String() }, effect: always(keeps), level: 1},

	{name: "Mirror", show: func(js *jetstream.StreamConfig) string { return showSource(js.Mirror) }, effect: mirrorEffect},
	{name: "Sources", show: showSources, effect: sourcesEffect},
	{name: "SubjectTransform", show: func(js *jetstream.StreamConfig) string { return showJSON(js.SubjectTransform) }, effect: always(keeps)},
	{name: "Republish", show: func(js *jetstream.StreamConfig) string { return showJSON(js.RePublish) }, effect: always(keeps)},
	{name: "CompressAtRest", show: func(js *jetstream.StreamConfig) string { return js.Compression.String() }, effect: always(keeps)},

	flag("Counters", func(js *jetstream.StreamConfig) bool { return js.AllowMsgCounter }, recreates, recreates, 2),
	flag("MessageTTL", func(js *jetstream.StreamConfig) bool { return js.AllowMsgTTL }, keeps, recreates, 1),
	flag("AtomicBatches", func(js *jetstream.StreamConfig) bool { return js.AllowAtomicPublish }, keeps, keeps, 2),
	flag("AllowMsgSchedules", func(js *jetstream.StreamConfig) bool { return js.AllowMsgSchedules }, keeps, recreates, 2),
	flag("AllowBatchPublish", func(js *jetstream.StreamConfig) bool { return js.AllowBatchPublish }, keeps, keeps, 4),
	flag("AllowRollup", func(js *jetstream.StreamConfig) bool { return js.AllowRollup }, keeps, keeps, 0),
	flag("AllowDirect", func(js *jetstream.StreamConfig) bool { return js.AllowDirect }, keeps, keeps, 0),
	flag("MirrorDirect", func(js *jetstream.StreamConfig) bool { return js.MirrorDirect }, keeps, keeps, 0),
	flag("NoAck", func(js *jetstream.StreamConfig) bool { return js.NoAck }, shrinks, keeps, 0),
	flag("Sealed", func(js *jetstream.StreamConfig) bool { return js.Sealed }, shrinks, recreates, 0),
	flag("DenyDelete", func(js *jetstream.StreamConfig) bool { return js.DenyDelete }, keeps, recreates, 0),
	flag("DenyPurge", func(js *jetstream.StreamConfig) bool { return js.DenyPurge }, keeps, recreates, 0),

	{name: "Placement", show: func(js *jetstream.StreamConfig) string { return showJSON(js.Placement) }, effect: always(keeps)},
	{name: "ConsumerLimits", show: func(js *jetstream.StreamConfig) string { return showJSON(&js.ConsumerLimits) }, effect: always(keeps)},
	{name: "FirstSeq", show: func(js *jetstream.StreamConfig) string { return fmt.Sprint(max(js.FirstSeq, 1)) }, effect: always(recreates)},
	{name: "PersistMode", show: func(js *jetstream.StreamConfig) string { return js.PersistMode.String() }, effect: always(recreates), level: 2},
}

// number is a type of limits and amounts.
type number interface {
	int | int32 | int64 | time.Duration
}

// limit is a field of which a lower value deletes more. Zero and less mean no limit.
func limit[N number](name string, value func(*jetstream.StreamConfig) N) field {
	return field{name: name,
		show: func(js *jetstream.StreamConfig) string {
			if n := value(js); n > 0 {
				return fmt.Sprint(n)
			}
			return "unlimited"
		},
		effect: func(have, want *jetstream.StreamConfig) effect {
			if lowered(value(have), value(want)) {
				return shrinks
			}
			return keeps
		}}
}

// lowered reports whether the limit want is lower than the limit have.
func lowered[N number](have, want N) bool {
	return want > 0 && (have <= 0 || want < have)
}

// amount is a field of which a higher value is safer.
func amount[N number](name string, value func(*jetstream.StreamConfig) N) field {
	return field{name: name,
		show: func(js *jetstream.StreamConfig) string { return fmt.Sprint(value(js)) },
		effect: func(have, want *jetstream.StreamConfig) effect {
			if value(want) < value(have) {
				return shrinks
			}
			return keeps
		}}
}

// flag is a field that is on or off. on and off are the effects of switching it; level is
// the API level of the servers that know it.
func flag(name string, value func(*jetstream.StreamConfig) bool, on, off effect, level int) field {
	return field{name: name, level: level,
		show: func(js *jetstream.StreamConfig) string { return fmt.Sprint(value(js)) },
		effect: func(_, want *jetstream.StreamConfig) effect {
			if value(want) {
				return on
			}
			return off
		}}
}

func always(e effect) func(have, want *jetstream.StreamConfig) effect {
	return func(have, want *jetstream.StreamConfig) effect { return e }
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

// retentionEffect follows the server, which changes no stream from or to a work queue.
func retentionEffect(have, want *jetstream.StreamConfig) effect {
	switch {
	case have.Retention == jetstream.WorkQueuePolicy || want.Retention == jetstream.WorkQueuePolicy:
		return recreates
	case want.Retention == jetstream.InterestPolicy:
		return shrinks
	}
	return keeps
}

// showDiscard shows both fields that say what a full stream does.
func showDiscard(js *jetstream.StreamConfig) string {
	if js.DiscardNewPerSubject {
		return js.Discard.String() + "PerSubject"
	}
	return js.Discard.String()
}

// discardEffect: to refuse a message is safer than to delete one.
func discardEffect(have, want *jetstream.StreamConfig) effect {
	if have.DiscardNewPerSubject && !want.DiscardNewPerSubject || want.Discard < have.Discard {
		return shrinks
	}
	return keeps
}

// missing returns the elements of a that b does not have.
func missing(a, b []string) []string {
	var m []string
	for _, s := range a {
		if !slices.Contains(b, s) {
			m = append(m, s)
		}
	}
	return m
}

func orNone(s string) string { return cmp.Or(s, "none") }

// showJSON shows a value that has parts.
func showJSON[T any](v *T) string {
	if v == nil {
		return "none"
	}
	text, _ := json.Marshal(v) // of plain values
	return string(text)
}

// comparison is an existing stream next to its wanted definition.
type comparison struct {
	have, want *jetstream.StreamConfig
	fields     []*field // the fields that differ
	changes    []Change // allowed; made if nothing is refused
	refused    []Change
	older      bool // the stream has a higher revision than the definition: nothing else is set
}

// compare applies def to a copy of have, and sorts the differences into allowed and refused
// changes. Its errors are those of the overlay.
func compare(have jetstream.StreamConfig, def Definition) (*comparison, error) {
	c := &comparison{have: &have, want: clone(&have)}
	revision := revisionOf(&have)
	if c.older = def.Revision > 0 && def.Revision < revision; c.older {
		return c, nil
	}
	if err := def.Overlay(c.want); err != nil {
		return nil, err
	}
	c.fields = differing(c.have, c.want)
	for _, f := range c.fields {
		change := Change{Field: f.name, Have: f.show(c.have), Want: f.show(c.want)}
		if change.Needs = needs(f.effect(c.have, c.want), def.AllowShrink); change.Needs != "" {
			c.refused = append(c.refused, change)
		} else {
			c.changes = append(c.changes, change)
		}
	}
	if def.Revision > revision {
		c.changes = append(c.changes, Change{Field: "Revision", Have: strconv.Itoa(revision), Want: strconv.Itoa(def.Revision)})
	}
	setRevision(c.want, max(revision, def.Revision))
	return c, nil
}

// needs returns what a change with an effect needs and does not have; empty if it is allowed.
func needs(e effect, allowShrink bool) string {
	switch {
	case e == recreates:
		return NeedsNewStream
	case e == shrinks && !allowShrink:
		return NeedsAllowShrink
	}
	return ""
}

// differing returns the fields in which two configurations differ.
func differing(a, b *jetstream.StreamConfig) []*field {
	var differ []*field
	for i := range fields {
		if f := &fields[i]; f.show(a) != f.show(b) {
			differ = append(differ, f)
		}
	}
	return differ
}

// clone returns a deep copy of js, so that an overlay does not change js.
func clone(js *jetstream.StreamConfig) *jetstream.StreamConfig {
	text, _ := json.Marshal(js) // it came as JSON
	c := new(jetstream.StreamConfig)
	_ = json.Unmarshal(text, c)
	return c
}

// mirrorEffect follows the server: a mirror can become an ordinary stream, which copies
// nothing more. A stream cannot become a mirror, or the mirror of another stream.
func mirrorEffect(_, want *jetstream.StreamConfig) effect {
	if want.Mirror == nil {
		return shrinks
	}
	return recreates
}

func sourcesEffect(have, want *jetstream.StreamConfig) effect {
	if len(missing(sourceTexts(have), sourceTexts(want))) > 0 {
		return shrinks
	}
	return keeps
}

// showSource shows a mirror or source as the server returns it: a domain becomes the prefix
// of its API subjects, and times are in UTC.
func showSource(s *jetstream.StreamSource) string {
	if s == nil {
		return "none"
	}
	sent := *s
	if s.Domain != "" {
		sent.External = &jetstream.ExternalStream{APIPrefix: "$JS." + s.Domain + ".API"}
	}
	if s.OptStartTime != nil {
		at := s.OptStartTime.UTC()
		sent.OptStartTime = &at
	}
	return showJSON(&sent)
}

// sourceTexts shows the sources of js, sorted: the server does not keep their order.
func sourceTexts(js *jetstream.StreamConfig) []string {
	var texts []string
	for _, s := range js.Sources {
		texts = append(texts, showSource(s))
	}
	slices.Sort(texts)
	return texts
}

func showSources(js *jetstream.StreamConfig) string {
	return orNone(strings.Join(sourceTexts(js), " "))
}
