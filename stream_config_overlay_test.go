package bus_test

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// Each field reaches the server, on a new stream and on one that has nothing of it.
func TestStreamFields(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		name   string
		config bus.StreamConfig
		want   func(*jetstream.StreamConfig)
		new    bool // only a new stream can have it
	}{
		{"Description", bus.StreamConfig{Description: "what is ordered"}, func(c *jetstream.StreamConfig) { c.Description = "what is ordered" }, false},
		{"LimitsRetention", bus.StreamConfig{Retention: bus.LimitsRetention}, func(c *jetstream.StreamConfig) {}, false},
		{"WorkQueueRetention", bus.StreamConfig{Retention: bus.WorkQueueRetention}, func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, true},
		{"InterestRetention", bus.StreamConfig{Retention: bus.InterestRetention}, func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }, true},
		{"MaxMsgsPerSubject", bus.StreamConfig{MaxMsgsPerSubject: 5}, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }, true},
		{"MaxMsgSize", bus.StreamConfig{MaxMsgSize: 500}, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 500 }, true},
		{"DiscardOld", bus.StreamConfig{Discard: bus.DiscardOld}, func(c *jetstream.StreamConfig) {}, false},
		{"DiscardNew", bus.StreamConfig{Discard: bus.DiscardNew}, func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew }, false},
		{"DiscardNewPerSubject", bus.StreamConfig{Discard: bus.DiscardNewPerSubject, MaxMsgsPerSubject: 5}, func(c *jetstream.StreamConfig) {
			c.Discard, c.DiscardNewPerSubject, c.MaxMsgsPerSubject = jetstream.DiscardNew, true, 5
		}, true},
		{"no limits", bus.StreamConfig{MaxAge: bus.Unlimited, MaxMsgs: bus.Unlimited, MaxBytes: bus.Unlimited, MaxMsgsPerSubject: bus.Unlimited,
			MaxMsgSize: bus.Unlimited}, func(c *jetstream.StreamConfig) {}, false},
		{"CompressAtRest", bus.StreamConfig{CompressAtRest: true}, func(c *jetstream.StreamConfig) { c.Compression = jetstream.S2Compression }, false},
		{"SubjectDeleteMarkerTTL", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = time.Minute }}, func(c *jetstream.StreamConfig) {
			c.SubjectDeleteMarkerTTL, c.AllowMsgTTL, c.AllowRollup = time.Minute, true, true
		}, false},
		{"Counters", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }}, func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }, true},
		{"Mirror", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) {
			c.Mirror = &jetstream.StreamSource{Name: "O", FilterSubject: "o.a", OptStartSeq: 7}
		}}, func(c *jetstream.StreamConfig) {
			c.Mirror = &jetstream.StreamSource{Name: "O", FilterSubject: "o.a", OptStartSeq: 7}
			c.Subjects, c.MirrorDirect, c.Duplicates = nil, true, 0
		}, true},
		{"Mirror elsewhere", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.Mirror = &jetstream.StreamSource{Name: "O", Domain: "hub"} }}, func(c *jetstream.StreamConfig) {
			c.Mirror = &jetstream.StreamSource{Name: "O", External: &jetstream.ExternalStream{APIPrefix: "$JS.hub.API"}}
			c.Subjects, c.Duplicates = nil, 0
		}, true},
		{"Sources", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) {
			c.Sources = []*jetstream.StreamSource{{Name: "O", OptStartTime: &begin}, {Name: "P", Domain: "hub",
				SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "p.*", Destination: "from.p.{{wildcard(1)}}"}}}}
		}}, func(c *jetstream.StreamConfig) {
			c.Sources = []*jetstream.StreamSource{{Name: "O", OptStartTime: &begin}, {Name: "P", External: &jetstream.ExternalStream{APIPrefix: "$JS.hub.API"},
				SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "p.*", Destination: "from.p.{{wildcard(1)}}"}}}}
		}, false},
		{"SubjectTransform", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "s", Destination: "t"}
		}}, func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "s", Destination: "t"}
		}, false},
		{"Republish", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) {
			c.RePublish = &jetstream.RePublish{Source: ">", Destination: "stored.>", HeadersOnly: true}
		}}, func(c *jetstream.StreamConfig) {
			c.RePublish = &jetstream.RePublish{Source: ">", Destination: "stored.>", HeadersOnly: true}
		}, false},
		{"Metadata", bus.StreamConfig{Metadata: map[string]string{"team": "billing"}}, func(c *jetstream.StreamConfig) { c.Metadata["team"] = "billing" }, false},
		{"Raw", bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) {
			c.DenyDelete, c.Placement = true, &jetstream.Placement{Tags: []string{"ssd"}}
		}},
			func(c *jetstream.StreamConfig) {
				c.DenyDelete, c.Placement = true, &jetstream.Placement{Tags: []string{"ssd"}}
			}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			onFile := func() []bus.Option {
				return []bus.Option{bus.WithStoreDir(t.TempDir()), bus.WithLogger(silent())}
			}
			// In virtual time, as the server looks for streams elsewhere for 30 s.
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				origin, bare := bus.StreamConfig{Name: "O", Subjects: []string{"o.>"}}, bus.StreamConfig{Name: "S", Subjects: []string{"s"}}
				if strings.HasPrefix(tc.name, "Mirror") {
					bare.Subjects = nil
				}
				declare(t, b, origin)
				declare(t, b, bare)
				want := configOf(t, b, "S")
				tc.want(&want)
				tc.config.Name, tc.config.Subjects = "S", bare.Subjects
				check := func(b *bus.Bus) {
					t.Helper()
					declare(t, b, tc.config)
					got := configOf(t, b, "S")
					if len(want.Sources) > 0 {
						want.Duplicates = got.Duplicates // a new stream with sources has none
					}
					want.Metadata["_nats.req.level"] = got.Metadata["_nats.req.level"]
					if !reflect.DeepEqual(got, want) {
						t.Errorf("got  %+v\nwant %+v", got, want)
					}
				}
				if tc.new {
					_, err := b.Stream(t.Context(), tc.config)
					asError[*bus.StreamConflictError](t, err)
				} else {
					check(b)
				}
				fresh := bustest.New(t, onFile()...)
				declare(t, fresh, origin)
				check(fresh)
				check(fresh) // nothing of it is a change now
			}, onFile()...)
		})
	}
}

// What others wrote under a key stays, and what is Raw's is laid over the rest.
func TestStreamMetadataIsMerged(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	declare(t, b, bus.StreamConfig{Name: "S", Metadata: map[string]string{"a": "1", "b": "1"}})
	declare(t, b, bus.StreamConfig{Name: "S", Metadata: map[string]string{"b": "2", "c": "3"}, Revision: 4})
	mine := func() map[string]string {
		m := streamInfo(t, b, "S").Config.Metadata
		for key := range m {
			if strings.HasPrefix(key, "_nats.") {
				delete(m, key)
			}
		}
		return m
	}
	if got, want := mine(), map[string]string{"a": "1", "b": "2", "c": "3", "_omnibus.revision": "4"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// Raw can remove a key, and cannot remove the library's.
	declare(t, b, bus.StreamConfig{Name: "S", Raw: func(c *jetstream.StreamConfig) { c.Metadata = map[string]string{"a": "1"} }})
	if got, want := mine(), map[string]string{"a": "1", "_omnibus.revision": "4"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// rawFields are values for all fields of the server's configuration, by name.
var rawFields = map[string]func(*jetstream.StreamConfig){
	"Description":          func(c *jetstream.StreamConfig) { c.Description = "x" },
	"Subjects":             func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "x") },
	"Retention":            func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
	"MaxConsumers":         func(c *jetstream.StreamConfig) { c.MaxConsumers = 1 },
	"MaxMsgs":              func(c *jetstream.StreamConfig) { c.MaxMsgs = 1 },
	"MaxBytes":             func(c *jetstream.StreamConfig) { c.MaxBytes = 1 },
	"Discard":              func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew },
	"DiscardNewPerSubject": func(c *jetstream.StreamConfig) { c.DiscardNewPerSubject = true },
	"MaxAge":               func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
	"MaxMsgsPerSubject":    func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 },
	"MaxMsgSize":           func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1 },
	"Storage":              func(c *jetstream.StreamConfig) { c.Storage = jetstream.FileStorage },
	"Replicas":             func(c *jetstream.StreamConfig) { c.Replicas = 3 },
	"NoAck":                func(c *jetstream.StreamConfig) { c.NoAck = true },
	"Duplicates":           func(c *jetstream.StreamConfig) { c.Duplicates = time.Hour },
	"Placement":            func(c *jetstream.StreamConfig) { c.Placement = &jetstream.Placement{Cluster: "x"} },
	"Mirror":               func(c *jetstream.StreamConfig) { c.Mirror = &jetstream.StreamSource{Name: "x"} },
	"Sources":              func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "x"}} },
	"Sealed":               func(c *jetstream.StreamConfig) { c.Sealed = true },
	"DenyDelete":           func(c *jetstream.StreamConfig) { c.DenyDelete = true },
	"DenyPurge":            func(c *jetstream.StreamConfig) { c.DenyPurge = true },
	"AllowRollup":          func(c *jetstream.StreamConfig) { c.AllowRollup = true },
	"Compression":          func(c *jetstream.StreamConfig) { c.Compression = jetstream.S2Compression },
	"FirstSeq":             func(c *jetstream.StreamConfig) { c.FirstSeq = 7 },
	"SubjectTransform": func(c *jetstream.StreamConfig) {
		c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "S", Destination: "x"}
	},
	"RePublish":              func(c *jetstream.StreamConfig) { c.RePublish = &jetstream.RePublish{Source: "S", Destination: "x"} },
	"AllowDirect":            func(c *jetstream.StreamConfig) { c.AllowDirect = false },
	"MirrorDirect":           func(c *jetstream.StreamConfig) { c.MirrorDirect = true },
	"ConsumerLimits":         func(c *jetstream.StreamConfig) { c.ConsumerLimits.MaxAckPending = 5 },
	"Metadata":               func(c *jetstream.StreamConfig) { c.Metadata["x"] = "y" },
	"AllowMsgTTL":            func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true },
	"SubjectDeleteMarkerTTL": func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = time.Hour },
	"AllowMsgCounter":        func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true },
	"AllowAtomicPublish":     func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = true },
	"AllowMsgSchedules":      func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = true },
	"PersistMode":            func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode },
	"AllowBatchPublish":      func(c *jetstream.StreamConfig) { c.AllowBatchPublish = true },
}

// Nothing that Raw sets on an existing stream is overlooked, whatever a newer client
// of the server may add.
func TestRawIsComparedInEveryField(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", MaxMsgsPerSubject: 9}) // which DiscardNewPerSubject needs
	for f := range reflect.TypeFor[jetstream.StreamConfig]().Fields() {
		if f.Name == "Name" || f.Name == "Template" { // which servers ignore since 2.10
			continue
		}
		raw := rawFields[f.Name]
		if raw == nil {
			t.Errorf("the server has a field %s: enter it here and in the fields of internal/streamdef", f.Name)
			continue
		}
		p, err := st.Plan(t.Context(), bus.StreamConfig{Raw: raw})
		must(t, err)
		if len(p.Changes)+len(p.Conflicts) != 1 {
			t.Errorf("%s: got %v", f.Name, p)
		}
	}
}

func TestRawIsHeldToTheSameRules(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	base(t, b, nil)
	_, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Raw: func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 }})
	asError[*bus.StreamConflictError](t, err, "MaxMsgs: have 1000, want 10", "would remove 90 messages")
	_, err = b.Stream(t.Context(), bus.StreamConfig{Name: "S", Raw: func(c *jetstream.StreamConfig) { c.Subjects[0] = "z" }})
	asError[*bus.StreamConflictError](t, err, "Subjects: have a.* b, want b z")
	for _, name := range []string{"S", "NEW"} {
		_, err = b.Stream(t.Context(), bus.StreamConfig{Name: name, Raw: func(c *jetstream.StreamConfig) { c.Name = "OTHER" }})
		asError[*bus.OptionError](t, err, "StreamConfig.Raw", `"OTHER"`, "leave Name as it is")
	}
	_, err = b.Stream(t.Context(), bus.StreamConfig{Name: "NEW", Raw: func(c *jetstream.StreamConfig) { c.Storage = jetstream.FileStorage }})
	asError[*bus.OptionError](t, err, "WithStoreDir")
	_, err = b.LookupStream(t.Context(), "NEW")
	isError(t, err, bus.ErrStreamNotFound)
	mustHold(t, b, "S", 1, 100)
}

// A window for duplicates that is longer than messages live is refused, wherever the two
// come from.
func TestStreamWindowBeyondAge(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	declare(t, b, bus.StreamConfig{Name: "S", MaxAge: time.Minute})
	for _, c := range []bus.StreamConfig{
		{Name: "T", MaxAge: time.Minute, Duplicates: time.Hour},
		{Name: "T", MaxAge: time.Minute, Raw: func(c *jetstream.StreamConfig) { c.Duplicates = time.Hour }},
		{Name: "S", Duplicates: time.Hour},
	} {
		asError[*bus.OptionError](t, second(b.Stream(t.Context(), c)), "StreamConfig.Duplicates", "1h0m0s", "MaxAge, 1m0s")
	}
	hasStreams(t, b, "S")
}

// Mirrors and sources get what the other stream stores, and can be consumed.
func TestStreamCopiesOthers(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	ctx := t.Context()
	origin := declare(t, b, bus.StreamConfig{Name: "ORIGIN", Subjects: []string{"o.*"},
		Raw: func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "o.old", Destination: "o.new"}
			c.RePublish = &jetstream.RePublish{Source: "o.new", Destination: "told.new"}
		}})
	told := make(chan int, 10)
	_, err := bus.Subscribe(b, "told.new", func(_ context.Context, m *bus.Msg[int]) error { told <- m.Data; return nil })
	must(t, err)
	mirror := declare(t, b, bus.StreamConfig{Name: "MIRROR", Raw: func(c *jetstream.StreamConfig) {
		c.Mirror = &jetstream.StreamSource{Name: "ORIGIN", OptStartSeq: 2}
	}})
	joined := declare(t, b, bus.StreamConfig{Name: "JOINED", Subjects: []string{"own"}, Raw: func(c *jetstream.StreamConfig) {
		c.Sources = []*jetstream.StreamSource{{Name: "ORIGIN", SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "o.new", Destination: "from.origin"}}}}
	}})
	storeRange(t, origin, "o.old", 0, 3)
	storeRange(t, origin, "o.x", 3, 5)
	storeRange(t, joined, "own", 5, 6)
	for i := range 3 {
		if n := receive(t, told); n != i {
			t.Errorf("told %d, want %d", n, i)
		}
	}
	for _, tc := range []struct {
		stream *bus.Stream
		want   map[string]int // messages by subject
	}{
		{mirror, map[string]int{"o.new": 2, "o.x": 2}},
		{joined, map[string]int{"from.origin": 3, "own": 1}},
	} {
		got := make(chan string, 10)
		_, err := bus.Consume(ctx, tc.stream, "c", ">", func(_ context.Context, m *bus.Msg[int]) error { got <- m.Subject; return nil })
		must(t, err)
		total := 0
		for _, n := range tc.want {
			total += n
		}
		for range total {
			tc.want[receive(t, got)]--
		}
		for subject, n := range tc.want {
			if n != 0 {
				t.Errorf("%s: %d messages on %s are missing", tc.stream.Name(), n, subject)
			}
		}
	}
	asError[*bus.SubjectError](t, second(bus.PublishTo(ctx, mirror, "o.x", 1)), "stores nothing but copies")
}

// A full stream refuses what it was told to refuse.
func TestStreamDiscards(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		discard bus.Discard
		left    string
	}{
		{bus.DiscardOld, "first 3, last 5"},
		{bus.DiscardNew, "first 3, last 5"}, // MaxMsgsPerSubject removes the old ones all the same
		{bus.DiscardNewPerSubject, "first 1, last 3"},
	} {
		b := bustest.New(t)
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, MaxMsgsPerSubject: 2, Discard: tc.discard})
		for i := range 4 {
			_, err := bus.PublishTo(t.Context(), st, "s.a", i)
			if refused := tc.discard == bus.DiscardNewPerSubject && i >= 2; (err != nil) != refused {
				t.Errorf("%d, message %d: %v", tc.discard, i, err)
			} else if refused {
				asError[*bus.StreamError](t, err, "per subject")
			}
		}
		must(t, second(bus.PublishTo(t.Context(), st, "s.b", 1)))
		s := streamInfo(t, b, "S").State
		if got := fmt.Sprintf("first %d, last %d", s.FirstSeq, s.LastSeq); got != tc.left {
			t.Errorf("%d: %s, want %s", tc.discard, got, tc.left)
		}
	}
}
