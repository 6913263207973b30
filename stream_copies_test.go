package bus_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

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
