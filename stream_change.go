package bus

import (
	"encoding/json"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

// draft is what becomes of a stream that is there.
type draft struct {
	have, want *jetstream.StreamConfig
	fields     []*field      // that differ
	changes    []FieldChange // that are made
	conflicts  []FieldChange // with any of which none is
	older      bool          // the stream has a higher revision than this
}

// nothing reports that the stream stays as it is.
func (d *draft) nothing() bool { return d.older || len(d.changes) == 0 }

// draft lays c over what the server has.
func (c *StreamConfig) draft(have jetstream.StreamConfig, shrink bool) (*draft, error) {
	d := &draft{have: &have, want: copyOfConfig(&have)}
	now := revisionOf(&have)
	if d.older = c.Revision > 0 && c.Revision < now; d.older {
		return d, nil
	}
	if err := c.layOver(d.want); err != nil {
		return nil, err
	}
	past, newer := pastOf(&have), c.Revision > now
	for i := range streamFields {
		f := &streamFields[i]
		change := FieldChange{Field: f.name, Have: f.show(d.have), Want: f.show(d.want)}
		if change.Have == change.Want {
			continue
		}
		d.fields = append(d.fields, f)
		effect := f.effect(d.have, d.want)
		if change.Needs = needs(effect, shrink, newer || !past.has(f.name, change.Want)); change.Needs != "" {
			d.conflicts = append(d.conflicts, change)
			continue
		}
		d.changes = append(d.changes, change)
		if effect != labels {
			past.replaced(f.name, change.Have, change.Want)
		}
	}
	if newer {
		d.changes = append(d.changes, FieldChange{Field: "Revision", Have: strconv.Itoa(now), Want: strconv.Itoa(c.Revision)})
	}
	note(d.want, max(now, c.Revision), past)
	return d, nil
}

// needs says what a change needs that is not there. fresh means that it is not one
// back to what was.
func needs(e effect, shrink, fresh bool) string {
	switch {
	case e == remakes:
		return needsNewStream
	case e == shrinks && !shrink:
		return needsAllowShrink
	case e != labels && !fresh:
		return needsRevision
	}
	return ""
}

// layOver sets in js what c says.
func (c *StreamConfig) layOver(js *jetstream.StreamConfig) error {
	for i := range streamFields {
		if set := streamFields[i].set; set != nil {
			set(c, js)
		}
	}
	if c.Duplicates == 0 && js.MaxAge > 0 {
		js.Duplicates = min(js.Duplicates, js.MaxAge) // the server demands it
	}
	if c.Raw == nil {
		return checkWindow(js.Duplicates, js.MaxAge)
	}
	if err := c.applyRaw(js); err != nil {
		return err
	}
	if js.Name != c.Name {
		return badStreamField("Raw", quoted(js.Name), "must leave Name as it is, "+quoted(c.Name))
	}
	return checkWindow(js.Duplicates, js.MaxAge)
}

// applyRaw calls Raw, which may panic.
func (c *StreamConfig) applyRaw(js *jetstream.StreamConfig) (err error) {
	returned := false
	defer catch(&returned, &err)
	c.Raw(js)
	returned = true
	return nil
}

// copyOfConfig shares nothing with js, so that Raw can change it.
func copyOfConfig(js *jetstream.StreamConfig) *jetstream.StreamConfig {
	text, _ := json.Marshal(js) // it came as JSON
	c := new(jetstream.StreamConfig)
	_ = json.Unmarshal(text, c)
	return c
}

// What a refused change needs.
const (
	needsAllowShrink = "AllowShrink"
	needsRevision    = "a higher Revision"
	needsNewStream   = "a new stream"
)
