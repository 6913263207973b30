package streamdef

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

type config = jetstream.StreamConfig

// wanted is a definition with an overlay that cannot fail.
func wanted(revision int, shrink bool, overlay func(*config)) Definition {
	return Definition{Name: "S", Revision: revision, AllowShrink: shrink,
		Overlay: func(js *jetstream.StreamConfig) error { overlay(js); return nil }}
}

func TestCompareSortsChanges(t *testing.T) {
	t.Parallel()
	have := config{Name: "S", Subjects: []string{"b", "a"}, MaxMsgs: 100, Replicas: 1, Metadata: map[string]string{keyRevision: "2"}}
	change := func(js *config) {
		js.Subjects[0], js.MaxMsgs, js.MaxBytes, js.Replicas, js.AllowMsgCounter = "c", -1, 5, 3, true
	}
	for _, tc := range []struct {
		name             string
		def              Definition
		changes, refused []Change
	}{
		{"nothing", wanted(0, false, func(*config) {}), nil, nil},
		{"another order of subjects", wanted(2, false, func(js *config) { js.Subjects = []string{"a", "b"} }), nil, nil},
		{"a higher revision alone", wanted(3, false, func(*config) {}), []Change{{Field: "Revision", Have: "2", Want: "3"}}, nil},
		{"without AllowShrink", wanted(0, false, change),
			[]Change{{Field: "MaxMsgs", Have: "100", Want: "unlimited"}, {Field: "Replicas", Have: "1", Want: "3"}},
			[]Change{{"Subjects", "a b", "a c", NeedsAllowShrink}, {"MaxBytes", "unlimited", "5", NeedsAllowShrink}, {"Counters", "false", "true", NeedsNewStream}}},
		{"with AllowShrink", wanted(0, true, change),
			[]Change{{Field: "Subjects", Have: "a b", Want: "a c"}, {Field: "MaxMsgs", Have: "100", Want: "unlimited"},
				{Field: "MaxBytes", Have: "unlimited", Want: "5"}, {Field: "Replicas", Have: "1", Want: "3"}},
			[]Change{{"Counters", "false", "true", NeedsNewStream}}},
	} {
		c, err := compare(have, tc.def)
		if err != nil || c.older || !reflect.DeepEqual(c.changes, tc.changes) || !reflect.DeepEqual(c.refused, tc.refused) {
			t.Errorf("%s: got %+v, %v", tc.name, c, err)
		}
	}
	if have.Subjects[0] != "b" {
		t.Error("an overlay changed what the server has")
	}
}

// A lower revision asks for nothing: its overlay is not even called.
func TestCompareWithALowerRevision(t *testing.T) {
	t.Parallel()
	have := config{Name: "S", Metadata: map[string]string{keyRevision: "2"}}
	c, err := compare(have, Definition{Name: "S", Revision: 1, Overlay: func(*config) error { return errors.New("called") }})
	if err != nil || !c.older || len(c.changes)+len(c.refused) > 0 {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestCompareKeepsTheErrorOfTheOverlay(t *testing.T) {
	t.Parallel()
	failed := errors.New("no")
	if _, err := compare(config{}, Definition{Overlay: func(*config) error { return failed }}); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
}

func TestCompareKeepsTheHighestRevision(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		have     string
		revision int
		want     string
	}{{"", 0, ""}, {"", 3, "3"}, {"2", 0, "2"}, {"2", 3, "3"}, {"x", 1, "1"}} {
		have := config{Metadata: map[string]string{"a": "1", keyRevision: tc.have, keyPast: "{}"}}
		if tc.have == "" {
			delete(have.Metadata, keyRevision)
		}
		c, err := compare(have, wanted(tc.revision, false, func(*config) {}))
		if err != nil {
			t.Fatal(err)
		}
		_, past := c.want.Metadata[keyPast]
		if got := c.want.Metadata[keyRevision]; got != tc.want || past || c.want.Metadata["a"] != "1" {
			t.Errorf("%+v: got %v", tc, c.want.Metadata)
		}
		if have.Metadata[keyPast] == "" {
			t.Error("what the server has was changed")
		}
	}
}

// The effect of a change follows the server's rules and what is safe.
func TestEffects(t *testing.T) {
	t.Parallel()
	hour := func(c *config) { c.Duplicates = time.Hour }
	source := func(names ...string) func(*config) {
		return func(c *config) {
			for _, name := range names {
				c.Sources = append(c.Sources, &jetstream.StreamSource{Name: name})
			}
		}
	}
	none := func(*config) {}
	for _, tc := range []struct {
		field      string
		a, b       func(*config)
		to, backTo effect // of a change from a to b, and back
	}{
		{"Retention", none, func(c *config) { c.Retention = jetstream.InterestPolicy }, shrinks, keeps},
		{"Retention", none, func(c *config) { c.Retention = jetstream.WorkQueuePolicy }, recreates, recreates},
		{"Discard", none, func(c *config) { c.Discard = jetstream.DiscardNew }, keeps, shrinks},
		{"Discard", func(c *config) { c.Discard = jetstream.DiscardNew },
			func(c *config) { c.Discard, c.DiscardNewPerSubject = jetstream.DiscardNew, true }, keeps, shrinks},
		{"MaxAge", none, func(c *config) { c.MaxAge = time.Hour }, shrinks, keeps},
		{"MaxConsumers", func(c *config) { c.MaxConsumers = -1 }, func(c *config) { c.MaxConsumers = 1 }, shrinks, keeps},
		{"Duplicates", none, hour, keeps, shrinks},
		{"Mirror", none, func(c *config) { c.Mirror = &jetstream.StreamSource{Name: "O"} }, recreates, shrinks},
		{"Sources", source("A"), source("B", "A"), keeps, shrinks},
		{"NoAck", none, func(c *config) { c.NoAck = true }, shrinks, keeps},
		{"Sealed", none, func(c *config) { c.Sealed = true }, shrinks, recreates},
		{"MessageTTL", none, func(c *config) { c.AllowMsgTTL = true }, keeps, recreates},
	} {
		var a, b config
		tc.a(&a)
		tc.b(&b)
		differ := differing(&a, &b)
		if len(differ) != 1 || differ[0].name != tc.field {
			t.Errorf("%s: %d fields differ", tc.field, len(differ))
			continue
		}
		if to, back := differ[0].effect(&a, &b), differ[0].effect(&b, &a); to != tc.to || back != tc.backTo {
			t.Errorf("%s: got %d and %d, want %d and %d", tc.field, to, back, tc.to, tc.backTo)
		}
	}
}

// Equal values are shown equally, however they are written.
func TestFieldsShowEqualValuesEqually(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	utc := at.UTC()
	a := config{Subjects: []string{"x", "y"}, MaxMsgs: -1, FirstSeq: 1, Metadata: map[string]string{"_nats.level": "5", "k": "v"},
		Sources: []*jetstream.StreamSource{{Name: "A", OptStartTime: &at}, {Name: "B", Domain: "hub"}}}
	b := config{Subjects: []string{"y", "x"}, Metadata: map[string]string{"k": "v", keyRevision: "7"},
		Sources: []*jetstream.StreamSource{{Name: "B", External: &jetstream.ExternalStream{APIPrefix: "$JS.hub.API"}}, {Name: "A", OptStartTime: &utc}}}
	for _, f := range differing(&a, &b) {
		t.Errorf("%s differs: %s and %s", f.name, f.show(&a), f.show(&b))
	}
}
