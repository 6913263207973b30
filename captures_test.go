package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// The tests of this file are about which subjects a bus takes for those of a stream.

// A request to a subject that a stream stores would be answered by the stream.
func TestRequestIntoAStream(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	declare(t, b, bus.StreamConfig{Name: "SHOP", Subjects: []string{"shop.>"}})
	must(t, second(bus.Respond(b, "shop.double", double)))
	must(t, second(bus.Respond(b, "other.double", double)))
	_, err := bus.Request[int](t.Context(), b, "shop.double", 2)
	e := asError[*bus.CapturedError](t, err, `"shop.double"`, `"SHOP"`, "the stream's acknowledgement as its reply", "a subject that no stream stores")
	if e.Call != "Request" || e.Subject != "shop.double" || e.Stream != "SHOP" {
		t.Errorf("got %+v", e)
	}
	if n := streamInfo(t, b, "SHOP").State.Msgs; n != 0 {
		t.Errorf("%d requests are stored", n)
	}
	if v, err := bus.Request[int](t.Context(), b, "other.double", 2); v != 4 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
	// Nor does the stream answer when it is gone, or stores without a word.
	must(t, b.JetStream().DeleteStream(t.Context(), "SHOP"))
	if v, err := bus.Request[int](t.Context(), b, "shop.double", 2); v != 4 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
	must(t, second(b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "LOG", Subjects: []string{"shop.>"}, NoAck: true})))
	must(t, second(b.LookupStream(t.Context(), "LOG")))
	if v, err := bus.Request[int](t.Context(), b, "shop.double", 2); v != 4 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
	eventually(t, "the request is stored", func() bool { return streamInfo(t, b, "LOG").State.Msgs == 1 }) // without a word
}

// What others do to a stream is seen before a subject is refused for it.
func TestCapturesAreAskedFor(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]struct {
		do   func(t *testing.T, js jetstream.JetStream)
		want string // the stream that stores s.a after that
	}{
		"nothing": {func(*testing.T, jetstream.JetStream) {}, "S"},
		"deleted": {func(t *testing.T, js jetstream.JetStream) { must(t, js.DeleteStream(t.Context(), "S")) }, ""},
		"other subjects": {func(t *testing.T, js jetstream.JetStream) {
			must(t, second(js.UpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"other"}, Storage: jetstream.MemoryStorage})))
		}, ""},
		"another one has it": {func(t *testing.T, js jetstream.JetStream) {
			must(t, second(js.UpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"other"}, Storage: jetstream.MemoryStorage})))
			must(t, second(js.UpdateStream(t.Context(), jetstream.StreamConfig{Name: "T", Subjects: []string{"s.>", "t"}, Storage: jetstream.MemoryStorage})))
		}, ""}, // nobody told the bus
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			declare(t, b, bus.StreamConfig{Name: "T", Subjects: []string{"t"}})
			change.do(t, b.JetStream())
			for range 2 {
				err := bus.Publish(t.Context(), b, "s.a", 1)
				if change.want == "" {
					must(t, err)
				} else if e := asError[*bus.CapturedError](t, err); e.Stream != change.want {
					t.Errorf("got %+v", e)
				}
			}
		})
	}
}

// Without strict publishing a stream that is gone is not reported.
func TestCapturesOfAStreamThatIsGone(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := ownBus(t, record)
	declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	must(t, bus.Publish(t.Context(), b, "s.a", 1))
	nextEvent(t, events, event.Captured)
	must(t, b.JetStream().DeleteStream(t.Context(), "S"))
	must(t, bus.Publish(t.Context(), b, "s.b", 1))
	must(t, bus.Publish(t.Context(), b, "s.a", 1))
	if s := b.Stats(); s.Captured != 1 || s.Events != 1 {
		t.Errorf("got %+v", s)
	}
	declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	must(t, bus.Publish(t.Context(), b, "s.b", 1))
	if e := nextEvent(t, events, event.Captured); e.Subject != "s.b" {
		t.Errorf("got %+v", e)
	}
	must(t, b.Close())
}

// Of subjects with identifiers in them the first 1,024 are reported, and all are
// counted.
func TestCapturesOfManySubjects(t *testing.T) {
	t.Parallel()
	var reported atomic.Int64
	b := ownBus(t, bus.WithLogger(silent()), bus.WithEvents(func(e event.Event) {
		if e.Kind == event.Captured {
			reported.Add(1)
		}
	}))
	declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	for i := range 1100 {
		for range 2 {
			must(t, bus.Publish(t.Context(), b, bus.Subject[int]("s.*").At(fmt.Sprint(i)), i))
		}
	}
	if s := b.Stats(); s.Captured != 2200 || reported.Load() != 1024 {
		t.Errorf("captured %d, reported %d; want 2200, 1024", s.Captured, reported.Load())
	}
	must(t, b.Close())
}

// Streams can be met and left by many at once, while others publish.
func TestCapturesConcurrently(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	declare(t, b, bus.StreamConfig{Name: "ALWAYS", Subjects: []string{"always.>"}})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			name := fmt.Sprint("S", i)
			for range 10 {
				declare(t, b, bus.StreamConfig{Name: name, Subjects: []string{name + ".*"}})
				err := bus.Publish(t.Context(), b, bus.Subject[int](name+".x"), 1)
				if e, ok := errors.AsType[*bus.CapturedError](err); !ok || e.Stream != name {
					t.Errorf("got %v", err)
				}
				must(t, b.JetStream().DeleteStream(t.Context(), name))
				must(t, bus.Publish(t.Context(), b, bus.Subject[int](name+".x"), 1))
			}
		})
		wg.Go(func() {
			for range 100 {
				must(t, bus.Publish(t.Context(), b, "free", 1))
				if _, ok := errors.AsType[*bus.CapturedError](bus.Publish(t.Context(), b, "always.x", 1)); !ok {
					t.Error("it was published")
				}
			}
		})
	}
	wg.Wait()
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

// A durable can be made for subjects that others have added to the stream.
func TestConsumeOfSubjectsThatOthersAdded(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"x.a"}})
	must(t, second(b.JetStream().UpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"x.a", "x.b"}, Storage: jetstream.MemoryStorage})))
	h, got := collect[int](1)
	consume(t, st, "c", "x.b", h)
	must(t, second(bus.PublishTo(t.Context(), st, "x.b", 7)))
	if v := receive(t, got); v != 7 {
		t.Errorf("got %d", v)
	}
	_, err := bus.Consume(t.Context(), st, "d", "x.c", ignore[int])
	asError[*bus.SubjectError](t, err, "stores nothing that matches", "it stores x.a, x.b")
}

// The server's number of a refusal is there, whichever call it refuses.
func TestStreamErrorNumbers(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	_, published := bus.PublishTo(t.Context(), st, "S", 1, bus.WithHeader("Nats-Expected-Stream", "OTHER"))
	_, looked := b.LookupStream(t.Context(), "NONE")
	_, overlaps := b.Stream(t.Context(), bus.StreamConfig{Name: "T", Subjects: []string{"S"}})
	hasText(t, overlaps, "subjects that do not overlap with its")
	_, copies := b.Stream(t.Context(), bus.StreamConfig{Name: "T", Replicas: 3})
	hasText(t, copies, "leave Replicas out")
	for _, tc := range []struct {
		err       error
		code, own int
	}{{published, 400, 10060}, {looked, 404, 10059}, {overlaps, 400, 10065}, {copies, 500, 10074}} {
		if e := asError[*bus.StreamError](t, tc.err); e.Code != tc.code || e.ErrorCode != tc.own {
			t.Errorf("got %d/%d of %v, want %d/%d", e.Code, e.ErrorCode, e, tc.code, tc.own)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	must(t, b.JetStream().DeleteStream(t.Context(), "S"))
	must(t, second(bus.Subscribe(b, "S", func(context.Context, *bus.Msg[int]) error { cancel(); return nil })))
	_, err := bus.PublishTo(ctx, st, "S", 1, bus.MsgID("id-1"))
	isError(t, err, bus.ErrUnknownOutcome, "repeated safely with the same MsgID", `"id-1"`)
	if e := asError[*bus.StreamError](t, err); e.Code != 0 || e.ErrorCode != 0 {
		t.Errorf("got %+v", e)
	}
}
