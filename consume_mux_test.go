package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// fillMux returns a Mux with a handler for each pattern.
func fillMux(patterns ...bus.Subject[int]) *bus.Mux {
	var m bus.Mux
	for _, p := range patterns {
		bus.Handle(&m, p, ignore[int])
	}
	return &m
}

// Messages of several types come in the order of the stream, and what the routes do not
// name does not come.
func TestStreamConsumeSharesOut(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		var m bus.Mux
		got := make(chan string, 1000)
		routeTo[int](&m, "s.int.*", got)
		routeTo[string](&m, "s.int.text", got) // within the other one
		routeTo[order](&m, "s.order", got)
		var want []string
		for i := range 50 {
			for subject, value := range map[string]any{"s.int.a": i, "s.int.text": "t", "s.order": order{ID: "o"}, "s.other": 1} {
				_, err := bus.PublishTo(t.Context(), st, bus.Subject[any](subject), value)
				must(t, err)
				pattern := map[string]string{"s.int.a": "s.int.*", "s.other": ""}[subject]
				switch subject {
				case "s.int.a":
					want = append(want, fmt.Sprintf("%s: %s %d", pattern, subject, i))
				case "s.int.text":
					want = append(want, "s.int.text: s.int.text t")
				case "s.order":
					want = append(want, "s.order: s.order {o 0 map[]}")
				}
			}
		}
		con := consumeMux(t, st, "d", &m)
		synctest.Wait()
		for i, w := range want {
			if g := receive(t, got); g != w {
				t.Fatalf("message %d is %q, want %q", i, g, w)
			}
		}
		nothing(t, got)
		if s := b.Stats().Subscriptions[0]; s.Subject != "s.int.* s.order" || s.Durable != "d" {
			t.Errorf("the statistics are %+v", s)
		}
		if c := consumerInfo(t, b, "S", "d").Config; !slices.Equal(c.FilterSubjects, []string{"s.int.*", "s.order"}) {
			t.Errorf("the filters are %q", c.FilterSubjects)
		}
		must(t, con.Drain(t.Context()))
		mustBeDone(t, b, "S", "d")
	})
}

// Default gets what nobody else is for: all that the stream stores, also later.
func TestStreamConsumeDefault(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		var m bus.Mux
		got := make(chan string, 100)
		routeTo[int](&m, "s.int", got)
		m.Default(func(_ context.Context, m *bus.Msg[[]byte]) error {
			got <- "rest: " + m.Subject + " " + string(m.Data)
			return nil
		})
		con := consumeMux(t, st, "d", &m)
		storeRange(t, st, "s.int", 1, 2)
		storeRange(t, st, "s.other", 2, 3)
		declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>", "new"}})
		storeRange(t, st, "new", 3, 4)
		synctest.Wait()
		for _, w := range []string{"s.int: s.int 1", "rest: s.other 2", "rest: new 3"} {
			if g := receive(t, got); g != w {
				t.Errorf("got %q, want %q", g, w)
			}
		}
		must(t, con.Drain(t.Context()))
		// More handlers need no other filter.
		routeTo[int](&m, "s.more.*", got)
		must(t, consumeMux(t, st, "d", &m).Drain(t.Context()))
	})
}

// Subscribe has a Default, too.
func TestSubscribeDefault(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	var m bus.Mux
	got := make(chan string, 10)
	routeTo[int](&m, "a.int", got)
	m.Default(func(_ context.Context, m *bus.Msg[[]byte]) error {
		got <- "rest: " + m.Subject + " " + string(m.Data)
		return nil
	})
	_, err := b.Subscribe("a.>", &m)
	must(t, err)
	must(t, bus.Publish(t.Context(), b, "a.x", "y"))
	must(t, bus.Publish(t.Context(), b, "a.int", 1))
	for _, w := range []string{`rest: a.x "y"`, "a.int: a.int 1"} {
		if g := receive(t, got); g != w {
			t.Errorf("got %q, want %q", g, w)
		}
	}
	if s := b.Stats(); s.Unrouted != 0 {
		t.Errorf("%d are unrouted", s.Unrouted)
	}
}

// Other routes than before are told with what would be skipped or unhandled, unless
// they are within what the durable gets. The durables have passed a message of each route.
func TestStreamConsumeWithOtherRoutes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	for _, s := range []bus.Subject[int]{"s.c.x", "s.x", "s.b", "s.a"} {
		storeRange(t, st, s, 0, 1)
	}
	for _, tc := range []struct {
		name             string
		before, after    []bus.Subject[int]
		skipped, unasked []string
	}{
		{"the same", []bus.Subject[int]{"s.a", "s.b"}, []bus.Subject[int]{"s.b", "s.a"}, nil, nil},
		{"within", []bus.Subject[int]{"s.*"}, []bus.Subject[int]{"s.*", "s.a", "s.b"}, nil, nil},
		{"one less within", []bus.Subject[int]{"s.>", "s.a"}, []bus.Subject[int]{"s.>"}, nil, nil},
		{"one more", []bus.Subject[int]{"s.a"}, []bus.Subject[int]{"s.a", "s.b"}, []string{"s.b"}, nil},
		{"one less", []bus.Subject[int]{"s.a", "s.b"}, []bus.Subject[int]{"s.a"}, nil, []string{"s.b"}},
		{"another", []bus.Subject[int]{"s.a", "s.b"}, []bus.Subject[int]{"s.a", "s.c.*"}, []string{"s.c.*"}, []string{"s.b"}},
		{"wider", []bus.Subject[int]{"s.a", "s.b"}, []bus.Subject[int]{"s.*"}, []string{"s.*"}, nil},
		{"narrower", []bus.Subject[int]{"s.*"}, []bus.Subject[int]{"s.a", "s.b"}, nil, []string{"s.*"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			durable := strings.ReplaceAll(tc.name, " ", "_")
			con := consumeMux(t, st, durable, fillMux(tc.before...))
			eventually(t, "all messages are handled", func() bool { return consumerInfo(t, b, "S", durable).AckFloor.Stream >= 4 })
			must(t, con.Drain(t.Context()))
			con, err := st.Consume(t.Context(), durable, fillMux(tc.after...))
			if tc.skipped == nil && tc.unasked == nil {
				must(t, err)
				must(t, con.Drain(t.Context()))
				return
			}
			e := asError[*bus.ConsumerConflictError](t, err, "filter: have")
			if !slices.Equal(e.MissingFilters, tc.skipped) || !slices.Equal(e.ExtraFilters, tc.unasked) {
				t.Errorf("skipped %q, unasked %q", e.MissingFilters, e.ExtraFilters)
			}
			for _, p := range tc.skipped {
				if e.FirstSkipped > 0 {
					hasText(t, err, "it would skip stored messages of "+p)
				} else {
					hasText(t, err, "it does not get all messages of "+p)
				}
			}
			for _, p := range tc.unasked {
				hasText(t, err, "it gets messages of "+p, "does not handle all of them", "Stream.Consume with a Mux")
			}
			if tc.unasked == nil && e.FirstSkipped == 0 {
				t.Errorf("it does not name the first message: %v", e)
			}
		})
	}
	t.Run("a default later", func(t *testing.T) {
		t.Parallel()
		m := fillMux("s.a")
		con := consumeMux(t, st, "default", m)
		eventually(t, "the message is handled", func() bool { return consumerInfo(t, b, "S", "default").AckFloor.Stream == 4 })
		must(t, con.Drain(t.Context()))
		m.Default(ignore[[]byte])
		_, err := st.Consume(t.Context(), "default", m)
		e := asError[*bus.ConsumerConflictError](t, err, "it would skip stored messages of >", "the first is 1", "Consumer.Rewind", "a durable of their own")
		if !slices.Equal(e.MissingFilters, []string{">"}) || e.FirstSkipped != 1 {
			t.Errorf("got %+v", e)
		}
	})
}

// A later version of a program may have handlers for more messages, if the durable has not
// passed any of those. Its place stays.
func TestStreamConsumeWithMoreRoutes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		before, after []bus.Subject[int]
		added         bool // a default
		want          []string
	}{
		"one more":  {[]bus.Subject[int]{"s.a"}, []bus.Subject[int]{"s.a", "s.b"}, false, []string{"s.b 1", "s.a 1"}},
		"wider":     {[]bus.Subject[int]{"s.a"}, []bus.Subject[int]{"s.*"}, false, []string{"s.b 1", "s.a 1"}},
		"a default": {[]bus.Subject[int]{"s.a"}, []bus.Subject[int]{"s.a"}, true, []string{"s.b 1", "s.a 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := bustest.New(t, bus.WithStoreDir(dir))
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
			con := consumeMux(t, st, "d", fillMux(tc.before...))
			storeRange(t, st, "s.a", 0, 1)
			eventually(t, "the message is handled", func() bool { return consumerInfo(t, b, "S", "d").AckFloor.Stream == 1 })
			must(t, con.Drain(t.Context()))
			storeRange(t, st, "s.b", 1, 2) // the durable has not come so far
			must(t, b.Close())

			b = bustest.New(t, bus.WithStoreDir(dir)) // the server has the durable from its store
			st = declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
			got := make(chan string, 10)
			var m bus.Mux
			for _, p := range tc.after {
				bus.Handle(&m, p, func(_ context.Context, m *bus.Msg[int]) error {
					got <- fmt.Sprint(m.Subject, " ", m.Data)
					return nil
				})
			}
			if tc.added {
				m.Default(func(_ context.Context, m *bus.RawMsg) error {
					got <- fmt.Sprint(m.Subject, " ", string(m.Data))
					return nil
				})
			}
			con = consumeMux(t, st, "d", &m)
			storeRange(t, st, "s.a", 1, 2)
			for _, want := range tc.want {
				if g := receive(t, got); g != want {
					t.Errorf("got %q, want %q", g, want)
				}
			}
			must(t, con.Drain(t.Context()))
			mustBeDone(t, b, "S", "d")
		})
	}
}

// While another process takes the messages, which may have no handler for the new ones,
// the durable does not grow.
func TestStreamConsumeWithMoreRoutesThanOthers(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort())
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	con := consumeMux(t, st, "d", fillMux("s.a"))
	eventually(t, "the first consumer asks for messages", func() bool { return consumerInfo(t, b, "S", "d").NumWaiting > 0 })
	_, err := st.Consume(t.Context(), "d", fillMux("s.a", "s.b"))
	asError[*bus.ConsumerConflictError](t, err, "another Consume of this bus takes messages", "no handler for s.b", "end that one first")
	other, err := bus.Connect(t.Context(), b.ClientURL(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { must(t, other.Close()) })
	_, err = lookUp(t, other, "S").Consume(t.Context(), "d", fillMux("s.a", "s.b"))
	e := asError[*bus.ConsumerConflictError](t, err, "other processes take messages", "no handler for s.b", "end those first")
	if !e.InUse || e.FirstSkipped != 0 {
		t.Errorf("got %+v", e)
	}
	must(t, con.Drain(t.Context()))
	con = consumeMux(t, st, "d", fillMux("s.a", "s.b"))
	must(t, con.Drain(t.Context()))
}

// A message that was put aside, and whose handler was removed meanwhile, is a dead
// letter that says so.
func TestStreamConsumeUnrouted(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		var before bus.Mux
		bus.Handle(&before, "s.a", giveUp)
		bus.Handle(&before, "s.b", giveUp)
		con := consumeMux(t, st, "d", &before)
		storeRange(t, st, "s.a", 0, 1)
		storeRange(t, st, "s.b", 1, 2)
		synctest.Wait()
		must(t, con.Drain(t.Context()))
		_, err := st.Redrive(t.Context(), bus.DeadFilter{})
		must(t, err)
		// A durable of the same name for s.a alone, as after somebody removed the old one.
		must(t, b.JetStream().DeleteConsumer(t.Context(), "S", "d"))
		consumeMux(t, st, "d", fillMux("s.a"))
		pass(time.Minute)
		if ls := deadLetters(t, st, bus.DeadFilter{}); len(ls) != 1 || ls[0].Cause != bus.CauseUnrouted || ls[0].Subject != "s.b" || string(ls[0].Data) != "1" {
			t.Errorf("the dead letters are %+v", ls)
		}
		nextEvent(t, events, event.DeadLetter)
		nextEvent(t, events, event.DeadLetter)
		hasText(t, nextEvent(t, events, event.DeadLetter).Err, "no handler for this subject")
	}, record, bus.WithLogger(silent()))
}

// An older form is made new, and one that fails comes again like any other.
func TestStreamConsumeOldForms(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		got := make(chan string, 10)
		handle := func(_ context.Context, m *bus.Msg[order]) error {
			if m.Attempt == 1 {
				return errors.New("later")
			}
			got <- fmt.Sprint(m.Data.ID, " at ", m.Attempt)
			return nil
		}
		var m bus.Mux
		bus.HandleOld(&m, "s.v1", func(n int) (order, error) { return order{ID: fmt.Sprint("old", n)}, nil }, handle)
		bus.Handle(&m, "s.v2", handle)
		consumeMux(t, st, "d", &m, bus.Retry(bus.RetryPolicy{MinBackoff: time.Minute}))
		storeRange(t, st, "s.v1", 7, 8)
		pass(10 * time.Minute)
		if g := receive(t, got); g != "old7 at 2" {
			t.Errorf("got %q", g)
		}
	}, bus.WithLogger(silent()))
}

func TestStreamConsumeMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	with := func(change func(*bus.Mux)) *bus.Mux {
		m := fillMux("s.a")
		change(m)
		return m
	}
	try := func(st *bus.Stream, durable string, m *bus.Mux, opts ...bus.ConsumeOption) error {
		con, err := st.Consume(t.Context(), durable, m, opts...)
		if con != nil {
			t.Error("it consumes")
		}
		return err
	}
	asError[*bus.OptionError](t, try(st, "d", nil), "Stream.Consume: mux is nil")
	asError[*bus.OptionError](t, try(st, "d", &bus.Mux{}), "has no handlers")
	asError[*bus.OptionError](t, try(nil, "d", fillMux("s.a")), "stream is nil")
	asError[*bus.SubjectError](t, try(st, "d", fillMux("s..a")), `"s..a"`)
	asError[*bus.SubjectError](t, try(st, "d", fillMux("s.a", "x.b")), `"x.b"`, "stores nothing that matches")
	asError[*bus.SubjectError](t, try(st, "d", fillMux("s.*.b", "s.a.*")), "overlaps with", "add a handler for a pattern that contains both, or a Default")
	asError[*bus.OptionError](t, try(st, "d", with(func(m *bus.Mux) { m.Default(nil) })), "Default: handler is nil")
	asError[*bus.OptionError](t, try(st, "d", with(func(m *bus.Mux) { m.Default(ignore[[]byte]); m.Default(ignore[[]byte]) })), "the second one")
	asError[*bus.OptionError](t, try(st, "d/e", fillMux("s.a")), "letters, digits")
	asError[*bus.OptionError](t, try(st, "d", fillMux("s.a"), bus.BatchSize(3)), "for ConsumeBatch only")
	asError[*bus.OptionError](t, try(st, "d", fillMux("s.a"), bus.KeyBy(func(*bus.Msg[int]) string { return "" })), "KeyBy", "uint8")
	must(t, b.JetStream().DeleteStream(t.Context(), "S"))
	isError(t, try(st, "d", fillMux("s.a")), bus.ErrStreamNotFound)
	must(t, b.Close())
	isError(t, try(st, "d", fillMux("s.a")), bus.ErrClosed)
	var none *bus.Mux
	none.Default(ignore[[]byte]) // the consumer says so
}
