package streamdef

import (
	"encoding/json"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

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
