package bus_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// Publish into a subject that a stream stores: an error when strict, otherwise
// one event for each subject, and a count.
func TestPublishIntoAStream(t *testing.T) {
	t.Parallel()
	for _, strict := range []bool{true, false} {
		t.Run(fmt.Sprintf("strict=%t", strict), func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			opts := []bus.Option{record, bus.WithLogger(silent()), bus.WithMaxMemory(1 << 20)}
			if strict {
				opts = append(opts, bus.WithStrictPublish())
			}
			b, err := bus.New(opts...)
			must(t, err)
			defer b.Close()
			_, err = b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			must(t, err)
			must(t, bus.Publish(t.Context(), b, "s.a.b", 1)) // not the stream's
			publishers := map[string]func(bus.Subject[int]) error{
				"Publish":      func(s bus.Subject[int]) error { return bus.Publish(t.Context(), b, s, 1) },
				"PublishBatch": func(s bus.Subject[int]) error { return bus.PublishBatch(t.Context(), b, s, []int{1}) },
				"PublishAsync": func(s bus.Subject[int]) error { return bus.PublishAsync(t.Context(), b, s, 1) },
			}
			for name, publish := range publishers {
				for range 2 {
					err := publish(bus.Subject[int]("s." + name))
					if strict {
						c := asError[*bus.CapturedError](t, err, `"s.`+name, `"S"`, "PublishTo")
						if c.Subject != "s."+name || c.Stream != "S" {
							t.Errorf("%+v", c)
						}
					} else if err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
				if !strict {
					e := nextEvent(t, events, event.Captured)
					asError[*bus.CapturedError](t, e.Err)
					if e.Subject != "s."+name || e.Stream != "S" {
						t.Errorf("the event is %+v", e)
					}
				}
			}
			nothing(t, events)
			if n := b.Stats().Captured; n != 6 {
				t.Errorf("Captured is %d, want 6", n)
			}
		})
	}
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
