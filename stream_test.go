package bus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// declare makes sure of a stream.
func declare(t testing.TB, b *bus.Bus, c bus.StreamConfig) *bus.Stream {
	t.Helper()
	st, err := b.Stream(t.Context(), c)
	must(t, err)
	return st
}

// streamInfo is what the server says of a stream.
func streamInfo(t testing.TB, b *bus.Bus, name string) *jetstream.StreamInfo {
	t.Helper()
	st, err := b.JetStream().Stream(t.Context(), name)
	must(t, err)
	return st.CachedInfo()
}

// configOf is the configuration that the server has, without what the library keeps
// in its metadata.
func configOf(t testing.TB, b *bus.Bus, name string) jetstream.StreamConfig {
	t.Helper()
	c := streamInfo(t, b, name).Config
	maps.DeleteFunc(c.Metadata, func(key, _ string) bool { return strings.HasPrefix(key, "_omnibus.") })
	return c
}

// storeRange stores from, from+1, … below to, which get the sequences after the
// last one.
func storeRange(t testing.TB, st *bus.Stream, s bus.Subject[int], from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		_, err := bus.PublishTo(t.Context(), st, s, i)
		must(t, err)
	}
}

// mustHold fails the test unless the stream has exactly the sequences from first
// to last.
func mustHold(t testing.TB, b *bus.Bus, name string, first, last uint64) {
	t.Helper()
	s := streamInfo(t, b, name).State
	if s.FirstSeq != first || s.LastSeq != last || s.Msgs != last+1-first {
		t.Errorf("stream %s has the %d messages from %d to %d, want those from %d to %d", name, s.Msgs, s.FirstSeq, s.LastSeq, first, last)
	}
}

func TestStreamDeclares(t *testing.T) {
	t.Parallel()
	full := bus.StreamConfig{Name: "FULL", Subjects: []string{"a.>", "b.*.c"}, Replicas: 1, MaxAge: time.Hour,
		MaxMsgs: 7, MaxBytes: 1 << 20, Duplicates: time.Minute}
	for _, tc := range []struct {
		name   string
		disk   bool
		config bus.StreamConfig
		want   jetstream.StreamConfig
	}{
		{"little, in memory", false, bus.StreamConfig{Name: "S"}, jetstream.StreamConfig{Name: "S", Subjects: []string{"S"},
			Storage: jetstream.MemoryStorage, MaxMsgs: -1, MaxBytes: -1, Duplicates: 2 * time.Minute}},
		{"little, on disk", true, bus.StreamConfig{Name: "S"}, jetstream.StreamConfig{Name: "S", Subjects: []string{"S"},
			Storage: jetstream.FileStorage, MaxMsgs: -1, MaxBytes: -1, Duplicates: 2 * time.Minute}},
		{"memory on disk's bus", true, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage}, jetstream.StreamConfig{Name: "S",
			Subjects: []string{"S"}, Storage: jetstream.MemoryStorage, MaxMsgs: -1, MaxBytes: -1, Duplicates: 2 * time.Minute}},
		{"all fields", true, full, jetstream.StreamConfig{Name: "FULL", Subjects: full.Subjects, Storage: jetstream.FileStorage,
			MaxMsgs: 7, MaxBytes: 1 << 20, MaxAge: time.Hour, Duplicates: time.Minute}},
		{"ages below the default window", false, bus.StreamConfig{Name: "S", MaxAge: time.Minute}, jetstream.StreamConfig{Name: "S",
			Subjects: []string{"S"}, Storage: jetstream.MemoryStorage, MaxMsgs: -1, MaxBytes: -1, MaxAge: time.Minute, Duplicates: time.Minute}},
		{"a long name", true, bus.StreamConfig{Name: strings.Repeat("N-_9", 50), Subjects: []string{"s"}}, jetstream.StreamConfig{
			Name: strings.Repeat("N-_9", 50), Subjects: []string{"s"}, MaxMsgs: -1, MaxBytes: -1, Duplicates: 2 * time.Minute}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var opts []bus.Option
			if tc.disk {
				opts = append(opts, bus.WithStoreDir(t.TempDir()))
			}
			b := bustest.New(t, opts...)
			st := declare(t, b, tc.config)
			if st.Name() != tc.want.Name || !slices.Equal(st.Subjects(), tc.want.Subjects) {
				t.Errorf("got %s with %q", st.Name(), st.Subjects())
			}
			st.Subjects()[0] = "changed" // it is the caller's own
			got := streamInfo(t, b, tc.want.Name).Config
			compare := jetstream.StreamConfig{Name: got.Name, Subjects: st.Subjects(), Storage: got.Storage, MaxMsgs: got.MaxMsgs,
				MaxBytes: got.MaxBytes, MaxAge: got.MaxAge, Duplicates: got.Duplicates}
			if !reflect.DeepEqual(compare, tc.want) {
				t.Errorf("got  %+v\nwant %+v", compare, tc.want)
			}
			if got.Retention != jetstream.LimitsPolicy || got.Discard != jetstream.DiscardOld || got.Replicas != 1 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// A stream that exists elsewhere is on disk unless the config says otherwise.
func TestStreamOnAnExternalServer(t *testing.T) {
	t.Parallel()
	server := external(t, nil)
	b, err := bus.Connect(t.Context(), server.ClientURL(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	declare(t, b, bus.StreamConfig{Name: "AUTO"})
	declare(t, b, bus.StreamConfig{Name: "MEMORY", Storage: bus.MemoryStorage})
	if a, m := streamInfo(t, b, "AUTO").Config.Storage, streamInfo(t, b, "MEMORY").Config.Storage; a != jetstream.FileStorage || m != jetstream.MemoryStorage {
		t.Errorf("they are kept in %v and %v", a, m)
	}
}

// base is the stream that the tests of changes begin with, and 100 messages in it.
func base(t *testing.T, b *bus.Bus, change func(*bus.StreamConfig)) jetstream.StreamConfig {
	t.Helper()
	c := bus.StreamConfig{Name: "S", Subjects: []string{"a.*", "b"}, MaxMsgs: 1000, MaxBytes: 1 << 20, MaxAge: time.Hour, Duplicates: time.Minute}
	if change != nil {
		change(&c)
	}
	storeRange(t, declare(t, b, c), "a.x", 0, 100)
	mustHold(t, b, "S", 1, 100)
	return configOf(t, b, "S")
}

// What cannot remove a message is changed, and a zero field changes nothing.
func TestStreamIsExtended(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		from   func(*bus.StreamConfig)
		config bus.StreamConfig
		want   func(*jetstream.StreamConfig)
	}{
		{"nothing", nil, bus.StreamConfig{}, nil},
		{"the same", nil, bus.StreamConfig{Subjects: []string{"a.*", "b"}, MaxMsgs: 1000, MaxBytes: 1 << 20, MaxAge: time.Hour,
			Duplicates: time.Minute, Replicas: 1, Storage: bus.MemoryStorage}, nil},
		{"subjects in another order", nil, bus.StreamConfig{Subjects: []string{"b", "a.*"}}, nil},
		{"a subject", nil, bus.StreamConfig{Subjects: []string{"a.*", "b", "c.>"}},
			func(c *jetstream.StreamConfig) { c.Subjects = []string{"a.*", "b", "c.>"} }},
		{"a subject in front", nil, bus.StreamConfig{Subjects: []string{"c", "a.*", "b", "d"}},
			func(c *jetstream.StreamConfig) { c.Subjects = []string{"a.*", "b", "c", "d"} }},
		{"more messages", nil, bus.StreamConfig{MaxMsgs: 1001}, func(c *jetstream.StreamConfig) { c.MaxMsgs = 1001 }},
		{"more bytes", nil, bus.StreamConfig{MaxBytes: 2 << 20}, func(c *jetstream.StreamConfig) { c.MaxBytes = 2 << 20 }},
		{"older messages", nil, bus.StreamConfig{MaxAge: 2 * time.Hour}, func(c *jetstream.StreamConfig) { c.MaxAge = 2 * time.Hour }},
		{"a longer window", nil, bus.StreamConfig{Duplicates: time.Hour}, func(c *jetstream.StreamConfig) { c.Duplicates = time.Hour }},
		{"all at once", nil, bus.StreamConfig{Subjects: []string{"b", "a.*", "c"}, MaxMsgs: 2000, MaxBytes: 2 << 20, MaxAge: 3 * time.Hour, Duplicates: time.Hour},
			func(c *jetstream.StreamConfig) {
				c.Subjects, c.MaxMsgs, c.MaxBytes, c.MaxAge, c.Duplicates = []string{"a.*", "b", "c"}, 2000, 2<<20, 3*time.Hour, time.Hour
			}},
		{"nothing, where all was left out", func(c *bus.StreamConfig) { *c = bus.StreamConfig{Name: "S", Subjects: []string{"a.*"}} },
			bus.StreamConfig{}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			want := base(t, b, tc.from)
			if tc.want != nil {
				tc.want(&want)
			}
			tc.config.Name = "S"
			for range 2 { // again, it is the same
				st := declare(t, b, tc.config)
				if got := configOf(t, b, "S"); !reflect.DeepEqual(got, want) {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
				if !slices.Equal(st.Subjects(), want.Subjects) {
					t.Errorf("the stream has %q, want %q", st.Subjects(), want.Subjects)
				}
			}
			mustHold(t, b, "S", 1, 100)
		})
	}
}

// What could remove a message, or cannot be changed, is refused, and then nothing
// else is changed either.
func TestStreamConflicts(t *testing.T) {
	t.Parallel()
	bare := func(c *bus.StreamConfig) { *c = bus.StreamConfig{Name: "S", Subjects: []string{"a.*"}} }
	inMemory := func(c *bus.StreamConfig) { c.Storage = bus.MemoryStorage }
	for _, tc := range []struct {
		name   string
		from   func(*bus.StreamConfig)
		config bus.StreamConfig
		fields string
		text   []string
	}{
		{"fewer messages", nil, bus.StreamConfig{MaxMsgs: 10}, "MaxMsgs", []string{"MaxMsgs: have 1000, want 10"}},
		{"fewer messages, though all fit", nil, bus.StreamConfig{MaxMsgs: 999}, "MaxMsgs", []string{"have 1000, want 999"}},
		{"fewer bytes", nil, bus.StreamConfig{MaxBytes: 1 << 10}, "MaxBytes", []string{"MaxBytes: have 1048576, want 1024"}},
		{"younger messages", nil, bus.StreamConfig{MaxAge: time.Minute}, "MaxAge", []string{"MaxAge: have 1h0m0s, want 1m0s"}},
		{"a shorter window", nil, bus.StreamConfig{Duplicates: time.Second}, "Duplicates", []string{"Duplicates: have 1m0s, want 1s"}},
		{"a limit of messages", bare, bus.StreamConfig{MaxMsgs: 10}, "MaxMsgs", []string{"MaxMsgs: have unlimited, want 10"}},
		{"a limit of bytes", bare, bus.StreamConfig{MaxBytes: 1 << 30}, "MaxBytes", []string{"have unlimited, want 1073741824"}},
		{"a limit of age", bare, bus.StreamConfig{MaxAge: time.Hour}, "MaxAge", []string{"have unlimited, want 1h0m0s"}},
		{"no subject a.*", nil, bus.StreamConfig{Subjects: []string{"b"}}, "Subjects", []string{"have a.* b, want b"}},
		{"other subjects", nil, bus.StreamConfig{Subjects: []string{"c"}}, "Subjects", []string{"have a.* b, want c"}},
		{"a wider subject", nil, bus.StreamConfig{Subjects: []string{"a.>", "b"}}, "Subjects", []string{"want a.> b"}},
		{"on disk", inMemory, bus.StreamConfig{Storage: bus.FileStorage}, "Storage", []string{"have Memory, want File"}},
		{"in memory", nil, bus.StreamConfig{Storage: bus.MemoryStorage}, "Storage", []string{"have File, want Memory"}},
		{"several", inMemory, bus.StreamConfig{MaxMsgs: 1, MaxBytes: 1, MaxAge: time.Second, Subjects: []string{"x"}, Storage: bus.FileStorage},
			"Duplicates MaxAge MaxBytes MaxMsgs Storage Subjects", []string{"MaxMsgs", "MaxBytes", "MaxAge", "Subjects", "Storage"}},
		{"one, among what could be changed", nil, bus.StreamConfig{MaxMsgs: 10, MaxBytes: 2 << 20, MaxAge: 2 * time.Hour, Subjects: []string{"a.*", "b", "c"}},
			"MaxMsgs", []string{`"S"`, "nothing was changed"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, bus.WithStoreDir(t.TempDir()), bus.WithSync(bus.SyncEvery(time.Second)))
			want := base(t, b, tc.from)
			tc.config.Name = "S"
			st, err := b.Stream(t.Context(), tc.config)
			if st != nil {
				t.Error("it returned a stream")
			}
			conflict := asError[*bus.StreamConflictError](t, err, tc.text...)
			var fields []string
			for _, f := range conflict.Fields {
				fields = append(fields, f.Field)
			}
			slices.Sort(fields)
			if got := strings.Join(fields, " "); got != tc.fields || conflict.Stream != "S" {
				t.Errorf("stream %s conflicts in %s, want S and %s", conflict.Stream, got, tc.fields)
			}
			if got := configOf(t, b, "S"); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			mustHold(t, b, "S", 1, 100)
		})
	}
}

// What this library does not know of a stream stays as others have made it.
func TestStreamKeepsWhatOthersSet(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	_, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"a"}, Description: "theirs",
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxMsgs: 10, MaxMsgSize: 1000, MaxMsgsPerSubject: 5,
		Storage: jetstream.MemoryStorage, DenyDelete: true, Metadata: map[string]string{"mine": "too"}})
	must(t, err)
	want := configOf(t, b, "S")
	declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"a", "b"}, MaxMsgs: 20})
	want.Subjects, want.MaxMsgs = []string{"a", "b"}, 20
	if got := configOf(t, b, "S"); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// The server's refusals are typed, and change nothing.
func TestStreamRefusedByTheServer(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	declare(t, b, bus.StreamConfig{Name: "OTHER", Subjects: []string{"other.>"}})
	declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxAge: time.Minute})
	want := configOf(t, b, "S")
	for _, tc := range []struct {
		name   string
		config bus.StreamConfig
		op     string
		text   []string
	}{
		{"overlaps another stream", bus.StreamConfig{Name: "N", Subjects: []string{"a", "other.*"}}, "create", []string{"overlap"}},
		{"is inside another stream", bus.StreamConfig{Name: "N", Subjects: []string{"other.a.b"}}, "create", []string{"overlap"}},
		{"extended over another stream", bus.StreamConfig{Name: "S", Subjects: []string{"s", "other.b"}}, "update", []string{"overlap"}},
		{"overlaps itself", bus.StreamConfig{Name: "N", Subjects: []string{"n.*", "n.a"}}, "create", []string{"overlap"}},
		{"the same twice", bus.StreamConfig{Name: "N", Subjects: []string{"n", "n"}}, "create", nil},
		{"the server's own subjects", bus.StreamConfig{Name: "N", Subjects: []string{"$JS.API.>"}}, "create", nil},
		{"everything", bus.StreamConfig{Name: "N", Subjects: []string{">"}}, "create", nil},
		{"copies without a cluster", bus.StreamConfig{Name: "N", Replicas: 3}, "create", []string{"replicas"}},
		{"extended by copies", bus.StreamConfig{Name: "S", Replicas: 3}, "update", []string{"replicas"}},
		{"more than the memory", bus.StreamConfig{Name: "N", MaxBytes: 1 << 40}, "create", []string{"memory"}},
		{"extended beyond the memory", bus.StreamConfig{Name: "LIMITED", MaxBytes: 1 << 40}, "update", []string{"memory"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			declare(t, b, bus.StreamConfig{Name: "LIMITED", MaxBytes: 1000})
			st, err := b.Stream(t.Context(), tc.config)
			e := asError[*bus.StreamError](t, err, append(tc.text, tc.config.Name, tc.op)...)
			if st != nil || e.Stream != tc.config.Name || e.Op != tc.op {
				t.Errorf("got %v, %+v", st, e)
			}
			if _, ok := errors.AsType[*jetstream.APIError](err); !ok {
				t.Errorf("the server's answer is not in the chain of %v", err)
			}
			if got := configOf(t, b, "S"); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			_, err = b.LookupStream(t.Context(), "N")
			isError(t, err, bus.ErrStreamNotFound)
		})
	}
}

// What cannot be right is refused before the server hears of it, all at once.
func TestBadStreamConfigs(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	api, err := b.Conn().SubscribeSync("$JS.API.>")
	must(t, err)
	for _, tc := range []struct {
		name   string
		config bus.StreamConfig
		want   string // the fields
	}{
		{"no name", bus.StreamConfig{}, "Name"},
		{"dot in the name", bus.StreamConfig{Name: "a.b"}, "Name"},
		{"blank in the name", bus.StreamConfig{Name: "a b"}, "Name"},
		{"wildcard in the name", bus.StreamConfig{Name: "*"}, "Name"},
		{"path in the name", bus.StreamConfig{Name: "../x"}, "Name"},
		{"line break in the name", bus.StreamConfig{Name: "S\n"}, "Name"},
		{"name not ASCII", bus.StreamConfig{Name: "größe"}, "Name"},
		{"name too long", bus.StreamConfig{Name: strings.Repeat("x", 201)}, "Name"},
		{"empty subject", bus.StreamConfig{Name: "S", Subjects: []string{""}}, "Subjects"},
		{"empty token", bus.StreamConfig{Name: "S", Subjects: []string{"a..b"}}, "Subjects"},
		{"blank in the subject", bus.StreamConfig{Name: "S", Subjects: []string{"a b"}}, "Subjects"},
		{"tail in the middle", bus.StreamConfig{Name: "S", Subjects: []string{"ok", "a.>.b"}}, "Subjects"},
		{"bad token", bus.StreamConfig{Name: "S", Subjects: bus.Subjects(bus.Subject[int]("a.*").At("x.y"))}, "Subjects"},
		{"unknown storage", bus.StreamConfig{Name: "S", Storage: 3}, "Storage"},
		{"negative storage", bus.StreamConfig{Name: "S", Storage: -1}, "Storage"},
		{"negative copies", bus.StreamConfig{Name: "S", Replicas: -1}, "Replicas"},
		{"too many copies", bus.StreamConfig{Name: "S", Replicas: 6}, "Replicas"},
		{"negative number", bus.StreamConfig{Name: "S", MaxMsgs: -2}, "MaxMsgs"},
		{"negative size", bus.StreamConfig{Name: "S", MaxBytes: -2}, "MaxBytes"},
		{"negative age", bus.StreamConfig{Name: "S", MaxAge: -2}, "MaxAge"},
		{"age without a unit", bus.StreamConfig{Name: "S", MaxAge: 60}, "MaxAge"},
		{"negative window", bus.StreamConfig{Name: "S", Duplicates: -1}, "Duplicates"},
		{"window without a unit", bus.StreamConfig{Name: "S", Duplicates: 60}, "Duplicates"},
		{"negative revision", bus.StreamConfig{Name: "S", Revision: -1}, "Revision"},
		{"unknown retention", bus.StreamConfig{Name: "S", Retention: 4}, "Retention"},
		{"unknown way to discard", bus.StreamConfig{Name: "S", Discard: -1}, "Discard"},
		{"negative number on a subject", bus.StreamConfig{Name: "S", MaxMsgsPerSubject: -2}, "MaxMsgsPerSubject"},
		{"negative size of a message", bus.StreamConfig{Name: "S", MaxMsgSize: -2}, "MaxMsgSize"},
		{"the server's metadata", bus.StreamConfig{Name: "S", Metadata: map[string]string{"_nats.x": "1"}}, "Metadata"},
		{"the library's metadata", bus.StreamConfig{Name: "S", Metadata: map[string]string{"_omnibus.revision": "1"}}, "Metadata"},
		{"disk, where there is none", bus.StreamConfig{Name: "S", Storage: bus.FileStorage}, "Storage"},
		{"disk, and more", bus.StreamConfig{Name: "S", Storage: bus.FileStorage, MaxMsgs: -2}, "MaxMsgs Storage"},
		{"everything", bus.StreamConfig{Name: "", Subjects: []string{"", "ok", "a b"}, Storage: 9, Replicas: 9, MaxMsgs: -2, MaxBytes: -2, MaxAge: 1, Duplicates: 1},
			"Name Subjects Subjects Storage Replicas MaxMsgs MaxBytes MaxAge Duplicates"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := b.Stream(t.Context(), tc.config)
			if got := fieldsOf(t, err); got != tc.want {
				t.Errorf("it is about %s, want %s: %v", got, tc.want, err)
			}
		})
	}
	for _, name := range []string{"", "a.b", "a b", "*", strings.Repeat("x", 201)} {
		_, err := b.LookupStream(t.Context(), name)
		asError[*bus.OptionError](t, err, "200 letters, digits")
	}
	must(t, b.Flush(t.Context()))
	if n, _, err := api.Pending(); n != 0 {
		t.Errorf("the server was asked %d times (%v)", n, err)
	}
}

// fieldsOf are the fields that the errors joined to err are about.
func fieldsOf(t *testing.T, err error) string {
	t.Helper()
	var about []string
	for _, e := range parts(err) {
		if _, ok := errors.AsType[*bus.SubjectError](e); ok {
			about = append(about, "Subjects")
			continue
		}
		o := asError[*bus.OptionError](t, e)
		name, ok := strings.CutPrefix(o.Option, "StreamConfig.")
		if !ok || o.Reason == "" {
			t.Errorf("got %+v", o)
		}
		about = append(about, name)
	}
	return strings.Join(about, " ")
}

// parts are the errors that were joined to err.
func parts(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, parts(e)...)
	}
	return all
}

// LookupStream asks, and never writes.
func TestLookupStream(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	base(t, b, nil)
	want := streamInfo(t, b, "S")
	api, err := b.Conn().SubscribeSync("$JS.API.>")
	must(t, err)
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	if st.Name() != "S" || !slices.Equal(st.Subjects(), []string{"a.*", "b"}) {
		t.Errorf("got %s with %q", st.Name(), st.Subjects())
	}
	_, err = b.LookupStream(t.Context(), "NONE")
	isError(t, err, bus.ErrStreamNotFound, `"NONE"`, "declare it with Bus.Stream")
	if e := asError[*bus.StreamError](t, err); e.Stream != "NONE" {
		t.Errorf("got %+v", e)
	}
	for _, subject := range []string{"$JS.API.STREAM.INFO.S", "$JS.API.STREAM.INFO.NONE"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		m, err := api.NextMsgWithContext(ctx)
		cancel()
		must(t, err)
		if m.Subject != subject {
			t.Errorf("it asked %s, want %s", m.Subject, subject)
		}
	}
	must(t, b.Flush(t.Context()))
	if n, _, err := api.Pending(); n != 0 {
		t.Errorf("%d more questions were asked (%v)", n, err)
	}
	if got := streamInfo(t, b, "S"); !reflect.DeepEqual(got.Config, want.Config) || !reflect.DeepEqual(got.State, want.State) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// What is found can be used.
	ack, err := bus.PublishTo(t.Context(), st, "b", 1)
	must(t, err)
	if ack.Sequence != 101 {
		t.Errorf("got %+v", ack)
	}
	must(t, b.JetStream().DeleteStream(t.Context(), "S"))
	_, err = b.LookupStream(t.Context(), "S")
	isError(t, err, bus.ErrStreamNotFound)
}

// All who declare the same stream at once get it, whoever is first.
func TestStreamIsDeclaredByManyAtOnce(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort())
	other := connectTo(t, b)
	for round := range 10 {
		c := bus.StreamConfig{Name: fmt.Sprintf("S%d", round), MaxMsgs: 10, Storage: bus.MemoryStorage}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				st, err := []*bus.Bus{b, other}[i%2].Stream(t.Context(), c)
				if err != nil || st.Name() != c.Name {
					t.Errorf("got %v, %v", st, err)
				}
			})
		}
		wg.Wait()
	}
}

// Modules of one program that each add to a stream at once all find theirs there:
// nobody takes away what another one got, least of all messages.
func TestStreamIsExtendedByManyAtOnce(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for round := range 40 {
		name := fmt.Sprintf("S%d", round)
		declare(t, b, bus.StreamConfig{Name: name, Subjects: []string{name}, MaxMsgs: 1})
		var most atomic.Int64
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				st, err := b.LookupStream(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				own, limit := fmt.Sprintf("%s.%d", name, i), int64(100+i)
				_, err = b.Stream(t.Context(), bus.StreamConfig{Name: name, Subjects: append(st.Subjects(), own), MaxMsgs: limit})
				if _, conflict := errors.AsType[*bus.StreamConflictError](err); conflict {
					return // another one was faster, and set more
				}
				if err != nil {
					t.Error(err)
					return
				}
				for n := most.Load(); n < limit && !most.CompareAndSwap(n, limit); n = most.Load() {
				}
				if !slices.Contains(streamInfo(t, b, name).Config.Subjects, own) {
					t.Errorf("subject %s is gone again", own)
				}
			})
		}
		wg.Wait()
		if got := streamInfo(t, b, name).Config.MaxMsgs; got != most.Load() {
			t.Errorf("MaxMsgs is %d, was set to %d", got, most.Load())
		}
		if t.Failed() {
			return
		}
	}
}

func TestPublishTo(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	one := declare(t, b, bus.StreamConfig{Name: "ONE", Subjects: []string{"a.*", "b.>"}})
	two := declare(t, b, bus.StreamConfig{Name: "TWO", Subjects: []string{"c"}})
	for i := range 50 {
		for j, s := range []bus.Subject[int]{"a.x", "b.y.z"} {
			ack, err := bus.PublishTo(t.Context(), one, s, i)
			must(t, err)
			if want := (bus.Ack{Stream: "ONE", Sequence: uint64(2*i + j + 1)}); *ack != want {
				t.Fatalf("got %+v, want %+v", *ack, want)
			}
		}
	}
	ack, err := bus.PublishTo(t.Context(), two, "c", 1)
	must(t, err)
	if want := (bus.Ack{Stream: "TWO", Sequence: 1}); *ack != want {
		t.Errorf("got %+v, want %+v", *ack, want)
	}
	mustHold(t, b, "ONE", 1, 100)
	mustHold(t, b, "TWO", 1, 1)
	if s := b.Stats(); s.Published != 101 || s.PublishFailed != 0 || s.Captured != 0 {
		t.Errorf("the statistics are %+v", s)
	}
}

// Publishers at the same time each get a sequence of their own, and their own
// messages keep their order.
func TestPublishToConcurrently(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	const publishers, each = 8, 100
	var seen sync.Map
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			last := uint64(0)
			for i := range each {
				ack, err := bus.PublishTo(t.Context(), st, bus.Subject[int]("s.*").At(fmt.Sprint(p)), i)
				if err != nil {
					t.Error(err)
					return
				}
				if _, twice := seen.LoadOrStore(ack.Sequence, p); twice || ack.Sequence <= last {
					t.Errorf("publisher %d got sequence %d after %d (given twice: %t)", p, ack.Sequence, last, twice)
				}
				last = ack.Sequence
			}
		})
	}
	wg.Wait()
	mustHold(t, b, "S", 1, publishers*each)
}

// A message with the ID of one in the window is stored once, whatever else it is.
func TestPublishToStoresAnIDOnce(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		short := declare(t, b, bus.StreamConfig{Name: "SHORT", Subjects: []string{"short.*"}, Duplicates: 10 * time.Second})
		usual := declare(t, b, bus.StreamConfig{Name: "USUAL", Subjects: []string{"usual"}})
		publish := func(st *bus.Stream, s bus.Subject[string], v, id string) bus.Ack {
			t.Helper()
			ack, err := bus.PublishTo(t.Context(), st, s, v, bus.MsgID(id))
			must(t, err)
			return *ack
		}
		want := func(got bus.Ack, stream string, seq uint64, duplicate bool) {
			t.Helper()
			if want := (bus.Ack{Stream: stream, Sequence: seq, Duplicate: duplicate}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		want(publish(short, "short.a", "x", "1"), "SHORT", 1, false)
		want(publish(short, "short.a", "x", "2"), "SHORT", 2, false)
		want(publish(short, "short.a", "x", "1"), "SHORT", 1, true)
		want(publish(short, "short.b", "another", "2"), "SHORT", 2, true)
		want(publish(usual, "usual", "x", "1"), "USUAL", 1, false) // IDs are the stream's
		time.Sleep(9 * time.Second)
		want(publish(short, "short.a", "x", "1"), "SHORT", 1, true)
		time.Sleep(20 * time.Second) // a repetition does not make the window longer
		want(publish(short, "short.a", "x", "1"), "SHORT", 3, false)
		time.Sleep(80 * time.Second) // less than the two minutes of the default
		want(publish(usual, "usual", "x", "1"), "USUAL", 1, true)
		time.Sleep(3 * time.Minute)
		want(publish(usual, "usual", "x", "1"), "USUAL", 2, false)
		mustHold(t, b, "SHORT", 1, 3)
		mustHold(t, b, "USUAL", 1, 2)
	})
}

// What is refused is not stored.
func TestPublishToRefuses(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithMaxPayload(64<<10))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	declare(t, b, bus.StreamConfig{Name: "OTHER", Subjects: []string{"other"}})
	ctx := t.Context()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	late, cancel := context.WithDeadline(ctx, time.Unix(1, 0))
	defer cancel()
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "elsewhere", 1)), `"elsewhere"`, `stream "S" does not store it`, "it stores s.*")
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "other", 1)), `stream "S" does not store it`)
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "s.a.b", 1)), "does not store it")
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "s", 1)), "does not store it")
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "s.*", 1)), "wildcard")
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, st, "", 1)), "empty")
	asError[*bus.ValidationError](t, second(bus.PublishTo(ctx, st, "s.a", even(3))), "3 is odd")
	asError[*bus.CodecError](t, second(bus.PublishTo(ctx, st, "s.a", make(chan int))), "encode", "chan int")
	p := asError[*bus.PayloadError](t, second(bus.PublishTo(ctx, st, "s.a", make([]byte, 56<<10+1))), "57345 bytes", "limit is 57344", "WithMaxPayload")
	if p.Size != 56<<10+1 || p.Limit != 56<<10 || p.Subject != "s.a" {
		t.Errorf("got %+v", p)
	}
	asError[*bus.PayloadError](t, second(bus.PublishTo(ctx, st, "s.a", make([]byte, 56<<10), bus.WithHeader("X", "y")))) // headers count
	asError[*bus.OptionError](t, second(bus.PublishTo(ctx, st, "s.a", 1, bus.MsgID(""))), "MsgID")
	isError(t, second(bus.PublishTo(cancelled, st, "s.a", 1)), context.Canceled)
	isError(t, second(bus.PublishTo(late, st, "s.a", 1)), bus.ErrTimeout)
	if n := streamInfo(t, b, "S").State.Msgs + streamInfo(t, b, "OTHER").State.Msgs; n != 0 {
		t.Errorf("%d messages were stored", n)
	}
	ack, err := bus.PublishTo(ctx, st, "s.a", make([]byte, 56<<10)) // the limit itself fits
	if err != nil || ack.Sequence != 1 {
		t.Errorf("got %+v, %v", ack, err)
	}
	if s := b.Stats(); s.Published != 1 || s.PublishFailed != 11 {
		t.Errorf("published %d, failed %d; want 1, 11", s.Published, s.PublishFailed)
	}
}

// A stream that is gone is told as such, after the moment that an election may take.
func TestPublishToAStreamThatIsGone(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.StoreOption{"without an ID": nil, "with an ID": {bus.MsgID("1")}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				storeRange(t, st, "S", 0, 1)
				must(t, b.JetStream().DeleteStream(t.Context(), "S"))
				began := time.Now()
				_, err := bus.PublishTo(t.Context(), st, "S", 1, opts...)
				isError(t, err, bus.ErrStreamNotFound, `"S"`, "publish", "declare it with Bus.Stream")
				asError[*bus.StreamError](t, err)
				if took := time.Since(began); took < 400*time.Millisecond || took > time.Second {
					t.Errorf("it took %v", took)
				}
				// It may come back meanwhile.
				time.AfterFunc(250*time.Millisecond, func() { declare(t, b, bus.StreamConfig{Name: "S"}) })
				ack, err := bus.PublishTo(t.Context(), st, "S", 2, opts...)
				if err != nil || ack.Sequence != 1 {
					t.Errorf("got %+v, %v", ack, err)
				}
			})
		})
	}
}

// Nobody answers where a plain subscriber listens to a stream's old subject: then
// it is not known whether somebody stored the message.
func TestPublishToWhereOnlyASubscriberListens(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.StoreOption{"without an ID": nil, "with an ID": {bus.MsgID("1")}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				must(t, b.JetStream().DeleteStream(t.Context(), "S"))
				_, err := bus.Subscribe(b, "S", ignore[int])
				must(t, err)
				began := time.Now()
				_, err = bus.PublishTo(t.Context(), st, "S", 1, opts...)
				isError(t, err, bus.ErrUnknownOutcome, `"S"`)
				isError(t, err, context.DeadlineExceeded)
				if took := time.Since(began); took != time.Minute {
					t.Errorf("it took %v, want the bus's timeout", took)
				}
			}, bus.WithTimeout(time.Minute))
		})
	}
}

func TestPublishToSubjectsThatWereMoved(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "OLD", Subjects: []string{"s.>"}})
	must(t, b.JetStream().DeleteStream(t.Context(), "OLD"))
	declare(t, b, bus.StreamConfig{Name: "NEW", Subjects: []string{"s.>"}})
	_, err := bus.PublishTo(t.Context(), st, "s.a", 1)
	if e := asError[*bus.StreamError](t, err, `"OLD"`, `stream "NEW" stored the message`, "look the stream up again"); e.Stream != "OLD" {
		t.Errorf("got %+v", e)
	}
	// A responder's answer is no acknowledgement.
	must(t, b.JetStream().DeleteStream(t.Context(), "NEW"))
	_, err = bus.Respond(b, "s.a", double)
	must(t, err)
	_, err = bus.PublishTo(t.Context(), st, "s.a", 1)
	asError[*bus.StreamError](t, err, "not an acknowledgement")
}

// The oldest messages make room for new ones.
func TestStreamLimits(t *testing.T) {
	t.Parallel()
	t.Run("messages", func(t *testing.T) {
		t.Parallel()
		b := bustest.New(t)
		storeRange(t, declare(t, b, bus.StreamConfig{Name: "S", MaxMsgs: 10}), "S", 0, 25)
		mustHold(t, b, "S", 16, 25)
	})
	t.Run("bytes", func(t *testing.T) {
		t.Parallel()
		b := bustest.New(t)
		st := declare(t, b, bus.StreamConfig{Name: "S", MaxBytes: 10 << 10})
		for range 50 {
			_, err := bus.PublishTo(t.Context(), st, "S", make([]byte, 1000))
			must(t, err)
		}
		if s := streamInfo(t, b, "S").State; s.LastSeq != 50 || s.Bytes > 10<<10 || s.Msgs < 9 || s.Msgs > 10 {
			t.Errorf("got %+v", s)
		}
	})
	t.Run("age", func(t *testing.T) {
		t.Parallel()
		bustest.Run(t, func(t *testing.T, b *bus.Bus) {
			st := declare(t, b, bus.StreamConfig{Name: "S", MaxAge: time.Hour})
			for i := range 10 {
				storeRange(t, st, "S", i, i+1)
				time.Sleep(10 * time.Minute)
			}
			synctest.Wait()
			if s := streamInfo(t, b, "S").State; s.FirstSeq < 5 || s.FirstSeq > 6 || s.LastSeq != 10 {
				t.Errorf("got %+v", s)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if s := streamInfo(t, b, "S").State; s.Msgs != 0 || s.LastSeq != 10 {
				t.Errorf("got %+v", s)
			}
		})
	})
	t.Run("of others, who would rather have no new ones", func(t *testing.T) {
		t.Parallel()
		b := bustest.New(t)
		_, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", MaxMsgs: 3, Discard: jetstream.DiscardNew, Storage: jetstream.MemoryStorage})
		must(t, err)
		st, err := b.LookupStream(t.Context(), "S")
		must(t, err)
		storeRange(t, st, "S", 0, 3)
		e := asError[*bus.StreamError](t, second(bus.PublishTo(t.Context(), st, "S", 4)), "maximum messages exceeded")
		if e.Stream != "S" || e.Op != "publish" {
			t.Errorf("got %+v", e)
		}
		mustHold(t, b, "S", 1, 3)
	})
}

// A full bus refuses soon and goes on when there is room.
func TestPublishToAFullBus(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		option bus.Option
		disk   bool
	}{
		{"memory", bus.WithMaxMemory(1 << 20), false},
		{"disk", bus.WithMaxStore(1 << 20), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			opts := []bus.Option{bus.WithLogger(silent()), tc.option}
			if tc.disk {
				opts = append(opts, bus.WithStoreDir(t.TempDir()))
			}
			b := bustest.New(t, opts...)
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			payload := make([]byte, 64<<10)
			stored := uint64(0)
			var err error
			began := time.Now()
			for range 100 {
				if _, err = bus.PublishTo(t.Context(), st, "S", payload); err != nil {
					break
				}
				stored++
			}
			asError[*bus.StreamError](t, err, `"S"`, "publish", "insufficient resources")
			for range 3 {
				asError[*bus.StreamError](t, second(bus.PublishTo(t.Context(), st, "S", payload, bus.MsgID("x"))))
			}
			if took := time.Since(began); stored < 14 || stored > 18 || took > 5*time.Second {
				t.Errorf("%d MiB/16 were stored, in %v", stored, took)
			}
			mustHold(t, b, "S", 1, stored)
			server, err := b.JetStream().Stream(t.Context(), "S")
			must(t, err)
			must(t, server.Purge(t.Context()))
			ack, err := bus.PublishTo(t.Context(), st, "S", payload)
			if err != nil || ack.Sequence != stored+1 {
				t.Errorf("after the purge: got %+v, %v", ack, err)
			}
		})
	}
}

// relay passes the bytes between one address of its own and a server, until a
// test wants answers to get lost or the connections to break.
type relay struct {
	listener net.Listener
	deaf     atomic.Bool                         // what the server says is thrown away
	rewrite  atomic.Pointer[func([]byte) []byte] // what is made of it; nil: nothing
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	conns  []net.Conn
	down   bool // who comes is turned away
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{listener: l, target: strings.TrimPrefix(target, "nats://")}
	r.wg.Go(r.serve)
	t.Cleanup(func() {
		_ = l.Close()
		r.cut(true)
		r.wg.Wait()
	})
	return r
}

func (r *relay) url() string { return "nats://" + r.listener.Addr().String() }

func (r *relay) serve() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		target := r.target
		r.mu.Unlock()
		srv, err := net.Dial("tcp", target)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		if r.down {
			_ = errors.Join(client.Close(), srv.Close())
		}
		r.conns = append(r.conns, client, srv)
		r.mu.Unlock()
		r.wg.Go(func() { _, _ = io.Copy(srv, client); _ = srv.Close() })
		r.wg.Go(func() { _, _ = io.Copy(earless{client, r}, srv); _ = client.Close() })
	}
}

// earless drops what is written while its relay is deaf.
type earless struct {
	net.Conn
	relay *relay
}

func (e earless) Write(p []byte) (int, error) {
	if e.relay.deaf.Load() {
		return len(p), nil
	}
	out := p
	if rewrite := e.relay.rewrite.Load(); rewrite != nil {
		out = (*rewrite)(p)
	}
	_, err := e.Conn.Write(out)
	return len(p), err
}

// ReadFrom hides the one of the connection, which would write past Write.
func (e earless) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{e}, r)
}

// cut breaks the connections; down says whether new ones are turned away.
func (r *relay) cut(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
}

// redirect has new connections lead to another server.
func (r *relay) redirect(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target, r.down = strings.TrimPrefix(target, "nats://"), false
}

// remote returns a bus that reaches the server of another one through a relay.
func remote(t *testing.T, opts ...bus.ConnectOption) (b, home *bus.Bus, r *relay, events <-chan event.Event) {
	t.Helper()
	home = bustest.New(t, anyPort())
	r = newRelay(t, home.ClientURL())
	record, events := recordEvents()
	b, err := bus.Connect(t.Context(), r.url(), append([]bus.ConnectOption{bus.WithLogger(silent()), bus.WithDrainTimeout(5 * time.Second), record}, opts...)...)
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b, home, r, events
}

// When the answer is lost with the connection, a message without an ID may be
// stored or not, and one with an ID is sent again until that is known.
func TestPublishToWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		opts []bus.StoreOption
	}{{"without an ID", nil}, {"with an ID", []bus.StoreOption{bus.MsgID("1")}}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b, home, r, events := remote(t, bus.WithTimeout(3*time.Second))
			st := declare(t, b, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
			type result struct {
				ack *bus.Ack
				err error
			}
			results := make(chan result, 1)
			r.deaf.Store(true)
			go func() {
				ack, err := bus.PublishTo(t.Context(), st, "S", 1, tc.opts...)
				results <- result{ack, err}
			}()
			eventually(t, "the message is stored", func() bool { return streamInfo(t, home, "S").State.Msgs == 1 })
			r.cut(false)
			r.deaf.Store(false)
			got := receive(t, results)
			awaitEvent(t, events, event.Disconnected)
			if tc.opts == nil {
				isError(t, got.err, bus.ErrUnknownOutcome, `"S"`, "publish")
				asError[*bus.StreamError](t, got.err)
			} else if got.err != nil || *got.ack != (bus.Ack{Stream: "S", Sequence: 1, Duplicate: true}) {
				t.Errorf("got %+v, %v", got.ack, got.err)
			}
			mustHold(t, home, "S", 1, 1)
		})
	}
}

// The context ends the wait for an answer, and the outcome stays unknown.
func TestPublishToIsGivenUp(t *testing.T) {
	t.Parallel()
	b, home, r, _ := remote(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
	r.deaf.Store(true)
	for i, opts := range [][]bus.StoreOption{nil, {bus.MsgID("1")}} {
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- second(bus.PublishTo(ctx, st, "S", 1, opts...)) }()
		eventually(t, "the message is stored", func() bool { return streamInfo(t, home, "S").State.Msgs == uint64(i+1) })
		cancel()
		err := receive(t, result)
		isError(t, err, bus.ErrUnknownOutcome)
		isError(t, err, context.Canceled)
		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		err = second(bus.PublishTo(ctx, st, "S", 1, bus.MsgID("2")))
		cancel()
		isError(t, err, bus.ErrUnknownOutcome)
		isError(t, err, context.DeadlineExceeded)
		if i == 0 { // the second time it is a duplicate
			eventually(t, "this one is stored, too", func() bool { return streamInfo(t, home, "S").State.Msgs == 2 })
		}
		must(t, purge(t, home, "S", i+1))
	}
	r.deaf.Store(false)
}

// purge removes all but the last keep messages of a stream.
func purge(t *testing.T, b *bus.Bus, name string, keep int) error {
	t.Helper()
	st, err := b.JetStream().Stream(t.Context(), name)
	must(t, err)
	return st.Purge(t.Context(), jetstream.WithPurgeKeep(uint64(keep)))
}

// While the server is away a message with an ID waits for it; all end when they
// must.
func TestPublishToWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	b, home, r, events := remote(t, bus.WithTimeout(20*time.Second))
	st := declare(t, b, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
	r.cut(true)
	awaitEvent(t, events, event.Disconnected)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := second(bus.PublishTo(ctx, st, "S", 1))
	isError(t, err, bus.ErrUnknownOutcome) // it is in the buffer of the connection
	isError(t, err, context.DeadlineExceeded)
	acks := make(chan *bus.Ack, 1)
	go func() {
		ack, err := bus.PublishTo(t.Context(), st, "S", 2, bus.MsgID("2"))
		if err != nil {
			t.Error(err)
		}
		acks <- ack
	}()
	r.cut(false)
	awaitEvent(t, events, event.Reconnected)
	if ack := receive(t, acks); ack == nil || ack.Stream != "S" {
		t.Errorf("got %+v", ack)
	}
	if s := streamInfo(t, home, "S").State; s.Msgs > 2 {
		t.Errorf("%d messages are stored", s.Msgs)
	}
}

// A server that stops and does not come back ends a call with its context, and
// Close ends it at once.
func TestPublishToAServerThatStops(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		opts []bus.StoreOption
	}{{"without an ID", nil}, {"with an ID", []bus.StoreOption{bus.MsgID("1")}}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := external(t, nil)
			b, err := bus.Connect(t.Context(), s.ClientURL(), bus.WithLogger(silent()), bus.WithDrainTimeout(500*time.Millisecond))
			must(t, err)
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			s.Shutdown()
			s.WaitForShutdown()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			isError(t, second(bus.PublishTo(ctx, st, "S", 1, tc.opts...)), bus.ErrUnknownOutcome)
			result := make(chan error, 1)
			ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			go func() { result <- second(bus.PublishTo(ctx, st, "S", 1, tc.opts...)) }()
			_ = b.Close() // what the connection had buffered is lost, and it says so
			if err := receive(t, result); !errors.Is(err, bus.ErrUnknownOutcome) && !errors.Is(err, bus.ErrClosed) {
				t.Errorf("got %v", err)
			}
		})
	}
}
