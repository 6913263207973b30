package bus_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// A plan says what Stream does, and nothing happens.
func TestStreamPlan(t *testing.T) {
	t.Parallel()
	inMemory := func(c *bus.StreamConfig) { c.Revision, c.Storage = 3, bus.MemoryStorage }
	for _, tc := range []struct {
		name   string
		config bus.StreamConfig
		opts   []bus.DeclareOption
		want   bus.Plan
		text   string
	}{
		{name: "nothing", text: "stream \"S\":\n  stays as it is"},
		{name: "older", config: bus.StreamConfig{Revision: 2, MaxMsgs: 10}, want: bus.Plan{Older: true},
			text: "stream \"S\":\n  stays as it is: it has a higher Revision"},
		{name: "more", config: bus.StreamConfig{MaxMsgs: 2000},
			want: bus.Plan{Changes: []bus.FieldChange{{Field: "MaxMsgs", Have: "1000", Want: "2000"}}},
			text: "stream \"S\":\n  change MaxMsgs: have 1000, want 2000"},
		{name: "a revision", config: bus.StreamConfig{Revision: 4},
			want: bus.Plan{Changes: []bus.FieldChange{{Field: "Revision", Have: "3", Want: "4"}}},
			text: "stream \"S\":\n  change Revision: have 3, want 4"},
		{name: "less", config: bus.StreamConfig{MaxMsgs: 10, MaxBytes: 2 << 20},
			want: bus.Plan{Changes: []bus.FieldChange{{Field: "MaxBytes", Have: "1048576", Want: "2097152"}},
				Conflicts:   []bus.FieldChange{{Field: "MaxMsgs", Have: "1000", Want: "10", Needs: "AllowShrink"}},
				WouldRemove: bus.Removal{Messages: 90}},
			text: "stream \"S\":\n  change MaxBytes: have 1048576, want 2097152\n  refuse MaxMsgs: have 1000, want 10 (needs AllowShrink)\n  remove 90 messages"},
		{name: "less, allowed", config: bus.StreamConfig{MaxMsgs: 10}, opts: []bus.DeclareOption{bus.AllowShrink()},
			want: bus.Plan{Changes: []bus.FieldChange{{Field: "MaxMsgs", Have: "1000", Want: "10"}}, WouldRemove: bus.Removal{Messages: 90}},
			text: "stream \"S\":\n  change MaxMsgs: have 1000, want 10\n  remove 90 messages"},
		{name: "impossible", config: bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }}, opts: []bus.DeclareOption{bus.AllowShrink()},
			want: bus.Plan{Conflicts: []bus.FieldChange{{Field: "Counters", Have: "false", Want: "true", Needs: "a new stream"}}},
			text: "stream \"S\":\n  refuse Counters: have false, want true (needs a new stream)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			base(t, b, inMemory)
			before := streamInfo(t, b, "S").Config
			st, err := b.LookupStream(t.Context(), "S")
			must(t, err)
			p, err := st.Plan(t.Context(), tc.config, tc.opts...)
			must(t, err)
			tc.want.Stream = "S"
			if !reflect.DeepEqual(p, tc.want) || p.String() != tc.text {
				t.Errorf("got  %+v\n%v\nwant %+v\n%v", p, p, tc.want, tc.text)
			}
			if after := streamInfo(t, b, "S").Config; !reflect.DeepEqual(after, before) {
				t.Errorf("it became %+v", after)
			}
			mustHold(t, b, "S", 1, 100)
			tc.config.Name = "S"
			_, err = b.Stream(t.Context(), tc.config, tc.opts...)
			if len(p.Conflicts) == 0 {
				must(t, err)
				return
			}
			conflict := asError[*bus.StreamConflictError](t, err)
			if !reflect.DeepEqual(conflict.Fields, p.Conflicts) || conflict.WouldRemove != p.WouldRemove {
				t.Errorf("Stream says %v, the plan %v", conflict, p)
			}
		})
	}
}

func TestStreamPlanRefuses(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	ctx := t.Context()
	asError[*bus.OptionError](t, second(st.Plan(ctx, bus.StreamConfig{Name: "OTHER"})), `Plan is about stream "S"`)
	asError[*bus.OptionError](t, second(st.Plan(ctx, bus.StreamConfig{MaxMsgs: -2})), "MaxMsgs")
	asError[*bus.OptionError](t, second(st.Plan(ctx, bus.StreamConfig{Storage: bus.FileStorage})), "WithStoreDir")
	asError[*bus.OptionError](t, second(st.Plan(ctx, bus.StreamConfig{}, nil)), "leave it out")
	var none *bus.Stream
	asError[*bus.OptionError](t, second(none.Plan(ctx, bus.StreamConfig{})), "stream is nil")
	asError[*bus.OptionError](t, second(st.Plan(nil, bus.StreamConfig{})), "ctx is nil") //nolint:staticcheck // that is the wrong use
	must(t, b.JetStream().DeleteStream(ctx, "S"))
	p, err := st.Plan(ctx, bus.StreamConfig{MaxAge: time.Hour})
	must(t, err)
	if !p.Create || p.String() != "stream \"S\":\n  is made" {
		t.Errorf("got %+v\n%v", p, p)
	}
	must(t, b.Close())
	isError(t, second(st.Plan(ctx, bus.StreamConfig{})), bus.ErrClosed)
}

// shrinking is a change that removes messages: of 100 that were stored a minute
// apart, on a.0 to a.4 in turn, and without 30 and 31.
type shrinking struct {
	name   string
	config bus.StreamConfig
	from   bus.StreamConfig // of the stream, beside its name and subjects
	fields string           // that conflict
	want   bus.Removal      // that is told
	left   uint64           // what is left of the 98
}

var shrinkings = []shrinking{
	{name: "messages", config: bus.StreamConfig{MaxMsgs: 10}, fields: "MaxMsgs", want: bus.Removal{Messages: 88}, left: 10},
	{name: "messages, though all fit", config: bus.StreamConfig{MaxMsgs: 98}, fields: "MaxMsgs", left: 98},
	{name: "messages, where new ones are refused", from: bus.StreamConfig{Discard: bus.DiscardNew}, config: bus.StreamConfig{MaxMsgs: 10}, fields: "MaxMsgs", left: 98},
	{name: "messages, where new ones are refused no more", from: bus.StreamConfig{Discard: bus.DiscardNew, MaxMsgs: 98},
		config: bus.StreamConfig{MaxMsgs: 10, Discard: bus.DiscardOld}, fields: "Discard MaxMsgs", want: bus.Removal{Messages: 88}, left: 10},
	{name: "age", config: bus.StreamConfig{MaxAge: 30*time.Minute + time.Second}, fields: "MaxAge", want: bus.Removal{Messages: 68}, left: 30},
	{name: "age, before the gap", config: bus.StreamConfig{MaxAge: 90*time.Minute + time.Second}, fields: "MaxAge", want: bus.Removal{Messages: 10}, left: 88},
	{name: "age, of all", config: bus.StreamConfig{MaxAge: time.Second}, fields: "Duplicates MaxAge", want: bus.Removal{Messages: 98, Bytes: 1}, left: 0},
	{name: "age, of none", config: bus.StreamConfig{MaxAge: time.Hour * 24}, fields: "MaxAge", left: 98},
	{name: "on a subject", config: bus.StreamConfig{MaxMsgsPerSubject: 5}, fields: "MaxMsgsPerSubject", want: bus.Removal{Messages: 73}, left: 25},
	{name: "age and messages", config: bus.StreamConfig{MaxAge: 30*time.Minute + time.Second, MaxMsgs: 20}, fields: "MaxAge MaxMsgs", want: bus.Removal{Messages: 78}, left: 20},
	{name: "on a subject and messages", config: bus.StreamConfig{MaxMsgsPerSubject: 5, MaxMsgs: 20}, fields: "MaxMsgs MaxMsgsPerSubject", want: bus.Removal{Messages: 78, More: true}, left: 20},
	{name: "interest, without consumers", config: bus.StreamConfig{Retention: bus.InterestRetention}, fields: "Retention", want: bus.Removal{Messages: 98, Bytes: 1}, left: 0},
	{name: "subjects", config: bus.StreamConfig{Subjects: []string{"a.1"}}, fields: "Subjects", left: 98},
	{name: "window", config: bus.StreamConfig{Duplicates: time.Second}, fields: "Duplicates", left: 98},
	{name: "size of a message", config: bus.StreamConfig{MaxMsgSize: 10}, fields: "MaxMsgSize", left: 98},
}

// What would be removed is told and stays; with AllowShrink exactly that goes.
func TestStreamShrinks(t *testing.T) {
	t.Parallel()
	for _, storage := range []bus.Storage{bus.MemoryStorage, bus.FileStorage} {
		for _, tc := range shrinkings {
			if storage == bus.FileStorage && tc.config.MaxAge > 0 {
				continue // its clock for ages is one of the whole process, which is no virtual one
			}
			t.Run(fmt.Sprintf("%s/%v", tc.name, storage == bus.FileStorage), func(t *testing.T) {
				t.Parallel()
				var opts []bus.Option
				if storage == bus.FileStorage {
					opts = append(opts, bus.WithStoreDir(t.TempDir()), bus.WithSync(bus.SyncEvery(time.Hour)))
				}
				bustest.Run(t, func(t *testing.T, b *bus.Bus) { shrinks(t, b, tc) }, opts...)
			})
		}
	}
}

// store100 makes what a shrinking begins with, on a stream with the given settings.
func store100(t *testing.T, b *bus.Bus, c bus.StreamConfig) {
	t.Helper()
	c.Name, c.Subjects = "S", []string{"a.*"}
	st := declare(t, b, c)
	for i := range 100 {
		storeRange(t, st, bus.Subject[int]("a.*").At(fmt.Sprint(i%5)), i, i+1)
		if i == 31 {
			js, err := b.JetStream().Stream(t.Context(), "S")
			must(t, err)
			must(t, js.DeleteMsg(t.Context(), 30))
			must(t, js.DeleteMsg(t.Context(), 31))
		}
		time.Sleep(time.Minute)
	}
}

func shrinks(t *testing.T, b *bus.Bus, tc shrinking) {
	store100(t, b, tc.from)
	before := streamInfo(t, b, "S")
	tc.config.Name = "S"
	if tc.want.Bytes > 0 {
		tc.want.Bytes = before.State.Bytes
	}
	_, err := b.Stream(t.Context(), tc.config)
	conflict := asError[*bus.StreamConflictError](t, err, "nothing was changed", "needs AllowShrink")
	if conflict.WouldRemove != tc.want {
		t.Errorf("it would remove %v, want %v", conflict.WouldRemove, tc.want)
	}
	if tc.want.Messages > 0 {
		hasText(t, err, "it would remove "+tc.want.String())
	}
	mustConflictIn(t, conflict, tc.fields)
	if now := streamInfo(t, b, "S"); now.State.Msgs != 98 || now.Config.MaxMsgs != before.Config.MaxMsgs {
		t.Fatalf("it was changed: %+v", now)
	}
	st, err := b.Stream(t.Context(), tc.config, bus.AllowShrink())
	must(t, err)
	time.Sleep(time.Millisecond) // the age timer
	if left := streamInfo(t, b, "S").State.Msgs; left != tc.left {
		t.Errorf("%d messages are left, want %d", left, tc.left)
	}
	p, err := st.Plan(t.Context(), tc.config)
	must(t, err)
	if len(p.Changes)+len(p.Conflicts) > 0 {
		t.Errorf("there is more to do: %v", p)
	}
}

// mustConflictIn fails the test unless the fields are exactly those, in any order.
func mustConflictIn(t *testing.T, conflict *bus.StreamConflictError, fields string) {
	t.Helper()
	want := strings.Fields(fields)
	got := make(map[string]bool)
	for _, f := range conflict.Fields {
		got[f.Field] = true
	}
	for _, f := range want {
		if !got[f] {
			t.Errorf("no conflict in %s: %v", f, conflict)
		}
	}
	if len(got) != len(want) {
		t.Errorf("conflicts in %v, want %v", got, want)
	}
}

// Where the number cannot be found out, that is told, and what it is at least.
func TestStreamShrinksByAnUnknownNumber(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	base(t, b, nil)
	size := streamInfo(t, b, "S").State.Bytes
	_, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", MaxBytes: 1000})
	conflict := asError[*bus.StreamConflictError](t, err, "at least 1 message (")
	if want := (bus.Removal{Messages: 1, Bytes: size - 1000, More: true}); conflict.WouldRemove != want {
		t.Errorf("got %v, want %v", conflict.WouldRemove, want)
	}
	_, err = b.JetStream().CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
	must(t, err)
	_, err = b.Stream(t.Context(), bus.StreamConfig{Name: "S", Retention: bus.InterestRetention})
	asError[*bus.StreamConflictError](t, err, "Retention: have Limits, want Interest", "an unknown number of messages")
	mustHold(t, b, "S", 1, 100)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	_, err = b.Stream(t.Context(), bus.StreamConfig{Name: "S", MaxBytes: 1000}, bus.AllowShrink())
	must(t, err)
	if s := streamInfo(t, b, "S").State; s.Bytes > 1000 || s.Msgs == 0 {
		t.Errorf("got %+v", s)
	}
	// What is empty loses nothing.
	must(t, second(st.Purge(t.Context(), bus.PurgeFilter{})))
	_, err = b.Stream(t.Context(), bus.StreamConfig{Name: "S", MaxBytes: 10, Retention: bus.InterestRetention})
	if c := asError[*bus.StreamConflictError](t, err); c.WouldRemove != (bus.Removal{}) {
		t.Errorf("got %v", c.WouldRemove)
	}
}
