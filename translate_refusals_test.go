package bus_test

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// A refusal by the server says which stream or durable, what is in the way, and what to do.
func TestRefusalsSayWhatToDo(t *testing.T) {
	t.Parallel()
	raw := func(change func(*jetstream.StreamConfig)) bus.StreamConfig {
		return bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Raw: change}
	}
	consume := func(durable, pattern string, opts ...bus.ConsumeOption) func(*testing.T, *bus.Bus, *bus.Stream) error {
		return func(t *testing.T, _ *bus.Bus, st *bus.Stream) error {
			_, err := bus.Consume(t.Context(), st, durable, bus.Subject[int](pattern), func(context.Context, *bus.Msg[int]) error { return nil }, opts...)
			return err
		}
	}
	twice := func(first, second func(*testing.T, *bus.Bus, *bus.Stream) error) func(*testing.T, *bus.Bus, *bus.Stream) error {
		return func(t *testing.T, b *bus.Bus, st *bus.Stream) error {
			must(t, first(t, b, st))
			return second(t, b, st)
		}
	}
	publish := func(t *testing.T, _ *bus.Bus, st *bus.Stream) error {
		return second(bus.PublishTo(t.Context(), st, "s.a", "0123456789"))
	}
	declare := func(c bus.StreamConfig) func(*testing.T, *bus.Bus, *bus.Stream) error {
		return func(t *testing.T, b *bus.Bus, _ *bus.Stream) error { return second(b.Stream(t.Context(), c)) }
	}
	addSource := func(c *jetstream.StreamConfig) {
		c.Sources = append(c.Sources, &jetstream.StreamSource{Name: "OTHER"})
	}
	workQueue := bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Retention: bus.WorkQueueRetention}
	for name, test := range map[string]struct {
		stream bus.StreamConfig
		call   func(*testing.T, *bus.Bus, *bus.Stream) error
		texts  []string
	}{
		"overlapping subjects": {raw(nil), declare(bus.StreamConfig{Name: "T", Subjects: []string{"t.>", "s.a"}}),
			[]string{`stream "T"`, `stream "S" stores "s.>"`, `"s.a"`, "use that stream"}},
		"subjects that come to overlap": {raw(nil), twice(declare(bus.StreamConfig{Name: "T", Subjects: []string{"t.>"}}),
			declare(bus.StreamConfig{Name: "T", Subjects: []string{"t.>", "s.*"}})),
			[]string{`stream "T"`, "update", `stream "S" stores "s.>"`, `"s.*"`, "use that stream"}},
		"a work queue's second durable": {workQueue, twice(consume("a", "s.b.>"), consume("b", "s.*.c")),
			[]string{`stream "S"`, "consume as b", `durable "a" takes "s.b.>" already`, "do not overlap"}},
		"a work queue's second durable of everything": {workQueue, twice(consume("a", ">"), consume("b", ">")),
			[]string{`stream "S"`, "consume as b", `durable "a" takes ">" already`, "do not overlap"}},
		"too many consumers": {raw(func(c *jetstream.StreamConfig) { c.MaxConsumers = 1 }), twice(consume("a", "s.a"), consume("b", "s.b")),
			[]string{`stream "S"`, "consume as b", "has 1 consumers, its MaxConsumers is 1", "DeleteConsumer"}},
		"too many messages": {bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxMsgs: 1, Discard: bus.DiscardNew}, twice(publish, publish),
			[]string{`stream "S"`, "publish", "maximum messages exceeded", "Purge", "DiscardOld"}},
		"too many bytes": {bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxBytes: 60, Discard: bus.DiscardNew}, func(t *testing.T, b *bus.Bus, st *bus.Stream) error {
			_ = publish(t, b, st)
			return publish(t, b, st)
		},
			[]string{`stream "S"`, "publish", "maximum bytes exceeded", "Purge", "DiscardOld"}},
		"too many messages of a subject": {bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxMsgsPerSubject: 1, Discard: bus.DiscardNewPerSubject}, twice(publish, publish),
			[]string{`stream "S"`, "publish", "per subject", "Discard: DiscardOld, with AllowShrink"}},
		"a message too large for the stream": {raw(func(c *jetstream.StreamConfig) { c.MaxMsgSize = 5 }), publish,
			[]string{`stream "S"`, "publish", "message size exceeds", "MaxMsgSize"}},
		"a source that Raw appends again": {raw(addSource), declare(raw(addSource)),
			[]string{`stream "S"`, "update", "duplicate source", "assign Sources"}},
		"copies on one server": {raw(nil), declare(bus.StreamConfig{Name: "T", Subjects: []string{"t"}, Replicas: 3}),
			[]string{`stream "T"`, "create", "leave Replicas out"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, bus.WithLogger(silent()))
			st, err := b.Stream(t.Context(), test.stream)
			must(t, err)
			asError[*bus.StreamError](t, test.call(t, b, st), test.texts...)
		})
	}
}
