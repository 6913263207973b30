package consumer

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/wire"
)

// What a durable has may differ from what is wanted in what does not matter, and in
// nothing else.
func TestConflict(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	want := wanted(&Config{Durable: "d", Filters: []string{"a.*", "b.>"}, Concurrency: 300})
	if want.MaxAckPending != 1200 || want.AckWait != DefaultAckWait {
		t.Errorf("wanted %+v", want)
	}
	for name, c := range map[string]struct {
		change         func(*jetstream.ConsumerConfig)
		field          string // that differs; "" for none
		missing, extra []string
	}{
		"the same":           {change: func(*jetstream.ConsumerConfig) {}},
		"AckWait and limits": {change: func(c *jetstream.ConsumerConfig) { c.AckWait, c.MaxAckPending, c.MaxWaiting = time.Hour, 1, 1 }},
		"order of filters":   {change: func(c *jetstream.ConsumerConfig) { c.FilterSubjects = []string{"b.>", "a.*"} }},
		"less": {change: func(c *jetstream.ConsumerConfig) { c.FilterSubjects = []string{"a.*"} },
			field: "filter", missing: []string{"b.>"}},
		"more": {change: func(c *jetstream.ConsumerConfig) { c.FilterSubjects = nil },
			field: "filter", extra: []string{">"}},
		"other": {change: func(c *jetstream.ConsumerConfig) { c.FilterSubjects, c.FilterSubject = nil, "a.x" },
			field: "filter", missing: []string{"a.*", "b.>"}},
		"start":        {change: func(c *jetstream.ConsumerConfig) { Start{Kind: StartTime, Time: at}.apply(c) }, field: FieldStart},
		"ack policy":   {change: func(c *jetstream.ConsumerConfig) { c.AckPolicy = jetstream.AckAllPolicy }, field: "ack policy"},
		"push":         {change: func(c *jetstream.ConsumerConfig) { c.DeliverSubject = "x" }, field: "deliver subject"},
		"max deliver":  {change: func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 3 }, field: "max deliver"},
		"headers only": {change: func(c *jetstream.ConsumerConfig) { c.HeadersOnly = true }, field: "headers only"},
		"backoff":      {change: func(c *jetstream.ConsumerConfig) { c.BackOff = []time.Duration{1} }, field: "backoff"},
	} {
		have := want
		c.change(&have)
		e := conflict(have, want)
		switch {
		case c.field == "" && e != nil:
			t.Errorf("%s: %v", name, e)
		case c.field != "" && (e == nil || len(e.Fields) != 1 || e.Fields[0].Field != c.field ||
			!slices.Equal(e.MissingFilters, c.missing) || !slices.Equal(e.ExtraFilters, c.extra)):
			t.Errorf("%s: got %+v", name, e)
		}
	}
}

func TestStartInWords(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]Start{
		"first":                {},
		"last":                 {Kind: StartLast},
		"new":                  {Kind: StartNew},
		"sequence 7":           {Kind: StartSequence, Sequence: 7},
		"2026-11-24T12:00:00Z": {Kind: StartTime, Time: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)},
	} {
		if got := s.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// An Open that adds filters and cannot set the key leaves the durable as it was.
func TestGrownDurableIsUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Filters = []string{"s.a"}
	first, err := Open(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, err := w.core.JetStream.Consumer(t.Context(), "S", "d")
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.Filters = []string{"s.a", "s.b"}
	w.cfg.Key = Key{Of: func(*wire.Delivery) (string, error) { return "", nil }, Name: strings.Repeat("k", 200_000)} // too long for the server
	if _, err := Open(t.Context(), w.cfg); err == nil {
		t.Fatal("the key was set")
	}
	after, err := w.core.JetStream.Consumer(t.Context(), "S", "d")
	if err != nil {
		t.Fatal(err)
	}
	if have, want := filtersOf(after.CachedInfo().Config), filtersOf(before.CachedInfo().Config); !slices.Equal(have, want) {
		t.Errorf("the filters are %v, and were %v", have, want)
	}
}
