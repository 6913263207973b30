package bus_test

import (
	"context"
	"errors"
	"fmt"
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
)

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

// A stream may have messages on subjects that are not its own, and get new subjects
// from others, later.
func TestStreamsOfOthersMaking(t *testing.T) {
	t.Parallel()
	memory := func(c jetstream.StreamConfig) jetstream.StreamConfig {
		c.Storage = jetstream.MemoryStorage
		return c
	}
	b := bustest.New(t)
	js := b.JetStream()
	origin := declare(t, b, bus.StreamConfig{Name: "ORIGIN", Subjects: []string{"s.*"}})
	storeRange(t, origin, "s.a", 0, 3)
	for name, c := range map[string]jetstream.StreamConfig{
		"MIRROR":  {Mirror: &jetstream.StreamSource{Name: "ORIGIN"}},
		"SOURCED": {Subjects: []string{"own"}, Sources: []*jetstream.StreamSource{{Name: "ORIGIN"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c.Name = name
			must(t, second(js.CreateStream(t.Context(), memory(c))))
			st, err := b.LookupStream(t.Context(), name)
			must(t, err)
			if !slices.Equal(st.Subjects(), c.Subjects) {
				t.Errorf("it stores %q", st.Subjects())
			}
			h, got := collect[int](3)
			consume(t, st, "c", "s.a", h)
			for want := range 3 {
				if v := receive(t, got); v != want {
					t.Errorf("got %d, want %d", v, want)
				}
			}
			_, err = bus.PublishTo(t.Context(), st, "s.a", 1)
			asError[*bus.SubjectError](t, err, name, "does not store it")
		})
	}
	t.Run("TRANSFORMED", func(t *testing.T) {
		must(t, second(js.CreateStream(t.Context(), memory(jetstream.StreamConfig{Name: "TRANSFORMED", Subjects: []string{"in.*"},
			SubjectTransform: &jetstream.SubjectTransformConfig{Source: "in.*", Destination: "out.{{wildcard(1)}}"}}))))
		st, err := b.LookupStream(t.Context(), "TRANSFORMED")
		must(t, err)
		h, got := whole[int](1)
		consume(t, st, "c", "out.*", h)
		must(t, second(bus.PublishTo(t.Context(), st, "in.x", 7)))
		if m := receive(t, got); m.Data != 7 || m.Subject != "out.x" {
			t.Errorf("got %+v", m)
		}
	})
	t.Run("subjects that others added", func(t *testing.T) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"x.a"}})
		must(t, second(js.UpdateStream(t.Context(), memory(jetstream.StreamConfig{Name: "S", Subjects: []string{"x.a", "x.b"}}))))
		must(t, second(bus.PublishTo(t.Context(), st, "x.b", 7)))
		if !slices.Equal(st.Subjects(), []string{"x.a", "x.b"}) {
			t.Errorf("it stores %q", st.Subjects())
		}
		_, err := bus.PublishTo(t.Context(), st, "x.c", 7)
		asError[*bus.SubjectError](t, err, "does not store it", "it stores x.a, x.b")
		err = bus.Publish(t.Context(), b, "x.b", 7) // Publish knows it now, too
		asError[*bus.CapturedError](t, err)
	})
}

// What the server cannot do stays a conflict, and then nothing else is done either.
func TestAllowShrinkCannotDoEverything(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		config bus.StreamConfig
		field  string
	}{
		{"storage", bus.StreamConfig{Storage: bus.MemoryStorage}, "Storage"},
		{"to a work queue", bus.StreamConfig{Retention: bus.WorkQueueRetention}, "Retention"},
		{"counters", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }}, "Counters"},
		{"mirror", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.Subjects, c.Mirror = nil, &jetstream.StreamSource{Name: "O"} }}, "Mirror"},
		{"first sequence", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.FirstSeq = 50 }}, "FirstSeq"},
		{"persist mode", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode }}, "PersistMode"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, bus.WithStoreDir(t.TempDir()), bus.WithLogger(silent()), bus.WithSync(bus.SyncEvery(time.Hour)))
			base(t, b, nil)
			tc.config.Name, tc.config.MaxMsgs = "S", 10
			_, err := b.Stream(t.Context(), tc.config, bus.AllowShrink())
			conflict := asError[*bus.StreamConflictError](t, err, tc.field+": have ", "needs a new stream")
			for _, f := range conflict.Fields {
				if f.Field == tc.field && f.Needs != "a new stream" {
					t.Errorf("got %+v", f)
				}
			}
			mustHold(t, b, "S", 1, 100)
		})
	}
	b := bustest.New(t)
	asError[*bus.OptionError](t, second(b.Stream(t.Context(), bus.StreamConfig{Name: "S"}, nil)), "leave it out")
}

// The same holds on a server elsewhere, for a stream on its disk that others made.
func TestStreamShrinksElsewhere(t *testing.T) {
	t.Parallel()
	b, err := bus.Connect(t.Context(), external(t, nil).ClientURL(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	_, err = b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	must(t, err)
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	storeRange(t, st, "s", 0, 100)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	asError[*bus.StreamConflictError](t, second(b.Stream(ctx, bus.StreamConfig{Name: "S", MaxMsgs: 10})), "would remove 90 messages")
	conflict := asError[*bus.StreamConflictError](t, second(b.Stream(ctx, bus.StreamConfig{Name: "S", MaxAge: time.Hour})))
	if conflict.WouldRemove != (bus.Removal{}) {
		t.Errorf("got %v", conflict.WouldRemove)
	}
	must(t, second(b.Stream(ctx, bus.StreamConfig{Name: "S", MaxAge: time.Hour}, bus.AllowShrink())))
	mustHold(t, b, "S", 1, 100)
	must(t, second(b.Stream(ctx, bus.StreamConfig{Name: "S", MaxMsgs: 10}, bus.AllowShrink())))
	mustHold(t, b, "S", 91, 100)
}
