package bus

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/streamdef"
)

// definition returns c as the definition that streamdef declares.
func (c *StreamConfig) definition(allowShrink bool) streamdef.Definition {
	return streamdef.Definition{Name: c.Name, Revision: c.Revision, AllowShrink: allowShrink, Overlay: c.overlay}
}

// overlay sets on js what c says: first the fields, then Raw.
func (c *StreamConfig) overlay(js *jetstream.StreamConfig) error {
	c.overlaySubjects(js)
	c.overlayKinds(js)
	c.overlayLimits(js)
	js.Description = cmp.Or(c.Description, js.Description)
	if len(c.Metadata) > 0 {
		metadata := make(map[string]string, len(js.Metadata)+len(c.Metadata))
		maps.Copy(metadata, js.Metadata)
		maps.Copy(metadata, c.Metadata)
		js.Metadata = metadata
	}
	if c.Raw != nil {
		if err := c.callRaw(js); err != nil {
			return err
		}
		if js.Name != c.Name {
			return badStreamField("Raw", fmt.Sprintf("%q", js.Name), fmt.Sprintf("must leave Name as it is, %q", c.Name))
		}
		if err := completeStarts(js); err != nil {
			return err
		}
	}
	return errors.Join(checkDuplicates(js.Duplicates, js.MaxAge), checkDiscard(js))
}

// completeStarts checks the start times of a mirror and of sources, and gives them in UTC: in
// JSON an offset of a zone loses its seconds.
func completeStarts(js *jetstream.StreamConfig) error {
	for _, s := range slices.Concat([]*jetstream.StreamSource{js.Mirror}, js.Sources) {
		if s == nil || s.OptStartTime == nil {
			continue
		}
		at := s.OptStartTime.UTC()
		if !representable(at) {
			return badStreamField("Raw", at.Format(time.RFC3339), fmt.Sprintf("OptStartTime of %q must lie between the years 1678 and 2262, which the server can represent; leave it out for all messages", s.Name))
		}
		s.OptStartTime = &at
	}
	return nil
}

// callRaw calls Raw and turns a panic into an error.
func (c *StreamConfig) callRaw(js *jetstream.StreamConfig) (err error) {
	defer catch("StreamConfig.Raw", &err)
	c.Raw(js)
	return nil
}

// overlaySubjects keeps the order of the subjects that the stream has.
func (c *StreamConfig) overlaySubjects(js *jetstream.StreamConfig) {
	switch {
	case len(c.Subjects) == 0:
	case len(missing(js.Subjects, c.Subjects)) > 0:
		js.Subjects = slices.Clone(c.Subjects)
	default:
		js.Subjects = slices.Concat(js.Subjects, missing(c.Subjects, js.Subjects))
	}
}

// overlayKinds sets storage, retention, discard and the switches.
func (c *StreamConfig) overlayKinds(js *jetstream.StreamConfig) {
	switch c.Storage {
	case FileStorage:
		js.Storage = jetstream.FileStorage
	case MemoryStorage:
		js.Storage = jetstream.MemoryStorage
	}
	switch c.Retention {
	case LimitsRetention:
		js.Retention = jetstream.LimitsPolicy
	case WorkQueueRetention:
		js.Retention = jetstream.WorkQueuePolicy
	case InterestRetention:
		js.Retention = jetstream.InterestPolicy
	}
	switch c.Discard {
	case DiscardOld:
		js.Discard, js.DiscardNewPerSubject = jetstream.DiscardOld, false
	case DiscardNew:
		js.Discard, js.DiscardNewPerSubject = jetstream.DiscardNew, false
	case DiscardNewPerSubject:
		js.Discard, js.DiscardNewPerSubject = jetstream.DiscardNew, true
	}
	if c.CompressAtRest {
		js.Compression = jetstream.S2Compression
	}
	js.AllowAtomicPublish = js.AllowAtomicPublish || c.AtomicBatches
	js.AllowMsgTTL = js.AllowMsgTTL || c.MessageTTL
}

// overlayLimits sets limits and amounts. A shorter MaxAge shortens Duplicates too, unless
// that is set: the server demands it.
func (c *StreamConfig) overlayLimits(js *jetstream.StreamConfig) {
	overlayLimit(&js.MaxMsgs, c.MaxMsgs)
	overlayLimit(&js.MaxBytes, c.MaxBytes)
	overlayLimit(&js.MaxAge, c.MaxAge)
	overlayLimit(&js.MaxMsgsPerSubject, c.MaxMsgsPerSubject)
	overlayLimit(&js.MaxMsgSize, c.MaxMsgSize)
	js.Replicas = cmp.Or(c.Replicas, js.Replicas)
	js.Duplicates = cmp.Or(c.Duplicates, js.Duplicates)
	if c.Duplicates == 0 && js.MaxAge > 0 {
		js.Duplicates = min(js.Duplicates, js.MaxAge)
	}
}

// overlayLimit sets a limit. Unlimited becomes 0, which the server takes for no limit.
func overlayLimit[N int32 | int64 | time.Duration](limit *N, want N) {
	if want != 0 {
		*limit = max(want, 0)
	}
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
