package bus_test

import (
	"reflect"
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
