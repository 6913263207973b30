package bus_test

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// versions are two of one program that declare the same stream.
type versions struct {
	name     string
	old, new bus.StreamConfig
}

var rollings = []versions{
	{"a higher limit", bus.StreamConfig{MaxMsgs: 100}, bus.StreamConfig{MaxMsgs: 200}},
	{"a lower limit", bus.StreamConfig{MaxMsgs: 200}, bus.StreamConfig{MaxMsgs: 100}},
	{"a limit", bus.StreamConfig{MaxMsgs: bus.Unlimited}, bus.StreamConfig{MaxMsgs: 100}},
	{"no limit", bus.StreamConfig{MaxAge: time.Hour}, bus.StreamConfig{MaxAge: bus.Unlimited}},
	{"a subject more", bus.StreamConfig{Subjects: []string{"a"}}, bus.StreamConfig{Subjects: []string{"a", "b"}}},
	{"a subject less", bus.StreamConfig{Subjects: []string{"a", "b"}}, bus.StreamConfig{Subjects: []string{"a"}}},
	{"another retention", bus.StreamConfig{Retention: bus.LimitsRetention}, bus.StreamConfig{Retention: bus.InterestRetention}},
	{"another way to discard", bus.StreamConfig{Discard: bus.DiscardOld}, bus.StreamConfig{Discard: bus.DiscardNew}},
	{"another transform", bus.StreamConfig{Raw: transformTo("x.>")}, bus.StreamConfig{Raw: transformTo("y.>")}},
	{"republished elsewhere", bus.StreamConfig{Raw: republishTo("x.>")}, bus.StreamConfig{Raw: republishTo("y.>")}},
	{"by Raw", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.MaxConsumers = 10 }}, bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.MaxConsumers = 5 }}},
	{"several, up and down", bus.StreamConfig{MaxMsgs: 100, MaxBytes: 2000}, bus.StreamConfig{MaxMsgs: 200, MaxBytes: 1000}},
	{"all at once", bus.StreamConfig{Subjects: []string{"a", "b"}, MaxMsgs: 100, Duplicates: time.Minute}, bus.StreamConfig{Subjects: []string{"b", "c"}, MaxMsgs: 50, Duplicates: time.Second}},
}

// transformTo returns a Raw that stores every message under another subject.
func transformTo(to string) func(*jetstream.StreamConfig) {
	return func(c *jetstream.StreamConfig) {
		c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: ">", Destination: to}
	}
}

// republishTo returns a Raw that publishes every stored message to another subject.
func republishTo(to string) func(*jetstream.StreamConfig) {
	return func(c *jetstream.StreamConfig) {
		c.RePublish = &jetstream.RePublish{Source: ">", Destination: to}
	}
}

// While two versions of a program start in turn, as in a rolling deploy, the stream does
// not change back and forth: the version with the higher revision decides, and both start.
func TestStreamDoesNotFlap(t *testing.T) {
	t.Parallel()
	for _, tc := range rollings {
		for _, shrink := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/AllowShrink=%t", tc.name, shrink), func(t *testing.T) {
				t.Parallel()
				rollOut(t, tc, shrink)
			})
		}
	}
}

func rollOut(t *testing.T, v versions, shrink bool) {
	b := bustest.New(t)
	v.old.Name, v.new.Name = "S", "S"
	v.old.Revision, v.new.Revision = 1, 2
	var opts []bus.DeclareOption
	if shrink {
		opts = append(opts, bus.AllowShrink())
	}
	declare(t, b, v.old)
	_, first := b.Stream(t.Context(), v.new, opts...)
	after := configOf(t, b, "S")
	started := [2]int{}
	for range 4 {
		for i, c := range []bus.StreamConfig{v.old, v.new} {
			if _, err := b.Stream(t.Context(), c, opts...); err == nil {
				started[i]++
			} else {
				asError[*bus.StreamConflictError](t, err)
			}
			if got := configOf(t, b, "S"); !reflect.DeepEqual(got, after) {
				t.Fatalf("version %d changed it: got  %+v\nwas %+v", i+1, got, after)
			}
		}
	}
	if first == nil && started[1] != 4 {
		t.Errorf("the new version started %d times of 4 after it had changed the stream", started[1])
	}
	if first == nil && started[0] != 4 {
		t.Errorf("the old version started %d times of 4", started[0])
	}
}

// A lower revision leaves the stream as it is, whatever it wants; the same and a
// higher one apply.
func TestStreamRevision(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	revision := func() string { return streamInfo(t, b, "S").Config.Metadata["_omnibus.revision"] }
	is := func(want string, limit int64) {
		t.Helper()
		if got := streamInfo(t, b, "S").Config; revision() != want || got.MaxMsgs != limit {
			t.Errorf("revision %q with MaxMsgs %d, want %q with %d", revision(), got.MaxMsgs, want, limit)
		}
	}
	storeRange(t, declare(t, b, bus.StreamConfig{Name: "S", MaxMsgs: 100}), "S", 0, 100)
	is("", 100)
	declare(t, b, bus.StreamConfig{Name: "S", Revision: 3}) // a stream of before there were revisions
	is("3", 100)
	st := declare(t, b, bus.StreamConfig{Name: "S", Revision: 2, MaxMsgs: 500, Subjects: []string{"S", "more"}, Storage: bus.MemoryStorage})
	is("3", 100)
	if !slices.Equal(st.Subjects(), []string{"S"}) {
		t.Errorf("it returned a stream with %q", st.Subjects())
	}
	// Even what would be a conflict is none, since nothing is asked for.
	must(t, second(b.Stream(t.Context(), bus.StreamConfig{Name: "S", Revision: 2, MaxMsgs: 1, Retention: bus.WorkQueueRetention}, bus.AllowShrink())))
	is("3", 100)
	declare(t, b, bus.StreamConfig{Name: "S", Revision: 3, MaxMsgs: 200})
	is("3", 200)
	// AllowShrink still decides what may be removed.
	_, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Revision: 4, MaxMsgs: 100})
	asError[*bus.StreamConflictError](t, err, "MaxMsgs: have 200, want 100 (needs AllowShrink)")
	is("3", 200)
	must(t, second(b.Stream(t.Context(), bus.StreamConfig{Name: "S", Revision: 4, MaxMsgs: 100}, bus.AllowShrink())))
	is("4", 100)
	// A configuration without a revision is not ordered, and the revision stays.
	declare(t, b, bus.StreamConfig{Name: "S", MaxMsgs: 300})
	is("4", 300)
	mustHold(t, b, "S", 1, 100)
}

// Without revisions a change back is a change like any other.
func TestStreamChangesBackWithoutRevisions(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for _, limit := range []int64{100, 200, 100, 200} {
		must(t, second(b.Stream(t.Context(), bus.StreamConfig{Name: "S", MaxMsgs: limit}, bus.AllowShrink())))
		if got := configOf(t, b, "S"); got.MaxMsgs != limit {
			t.Errorf("it has %d, want %d", got.MaxMsgs, limit)
		}
	}
	_, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", MaxMsgs: 100})
	asError[*bus.StreamConflictError](t, err, "MaxMsgs: have 200, want 100 (needs AllowShrink)")
}

// Damaged metadata are harmless, and those of development versions go with the next change.
func TestStreamMetadataOfOthers(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	declare(t, b, bus.StreamConfig{Name: "S", MaxMsgs: 1})
	for i, damage := range []string{"}{", "null", `{"MaxMsgs": 1}`, `{"MaxMsgs": null}`} {
		c := streamInfo(t, b, "S").Config
		c.Metadata["_omnibus.past"], c.Metadata["_omnibus.revision"] = damage, "x"
		_, err := b.JetStream().UpdateStream(t.Context(), c)
		must(t, err)
		declare(t, b, bus.StreamConfig{Name: "S", MaxMsgs: 200 + int64(i), Revision: 1})
		if m := streamInfo(t, b, "S").Config.Metadata; m["_omnibus.past"] != "" || m["_omnibus.revision"] != "1" {
			t.Errorf("got %v", m)
		}
	}
}

// Programs of two revisions that start at the same moment, in several processes, end
// with the newer one's stream.
func TestStreamRevisionsAtOnce(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort())
	buses := []*bus.Bus{b, connectTo(t, b), connectTo(t, b)}
	for round := range 20 {
		name := fmt.Sprintf("S%d", round)
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				c := bus.StreamConfig{Name: name, Revision: 1 + i%2, MaxMsgs: []int64{100, 50}[i%2], Storage: bus.MemoryStorage}
				if _, err := buses[i%3].Stream(t.Context(), c, bus.AllowShrink()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		// Who was overwritten after it had looked again does it at its next start.
		declare(t, buses[0], bus.StreamConfig{Name: name, Revision: 1, MaxMsgs: 100})
		_, err := buses[1].Stream(t.Context(), bus.StreamConfig{Name: name, Revision: 2, MaxMsgs: 50}, bus.AllowShrink())
		must(t, err)
		if got := streamInfo(t, b, name).Config; got.MaxMsgs != 50 || got.Metadata["_omnibus.revision"] != "2" {
			t.Errorf("got %d, %v", got.MaxMsgs, got.Metadata)
		}
	}
}
