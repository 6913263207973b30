package bus_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// filledByMinute declares S and stores message i, on s.a and s.b in turn, i minutes after
// the beginning.
func filledByMinute(t *testing.T, b *bus.Bus, n int) (st *bus.Stream, began time.Time) {
	t.Helper()
	st = declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	began = time.Now()
	for i := range n {
		storeRange(t, st, bus.Subject[int]([]string{"s.a", "s.b"}[i%2]), i, i+1)
		time.Sleep(time.Minute)
	}
	return st, began
}

// Each start begins where it says, and only when the durable is made.
func TestStartAt(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		start func(began time.Time) []bus.ConsumeOption
		want  []uint64 // of 6 messages, and 7 and 8 that come later
	}{
		{"default", func(time.Time) []bus.ConsumeOption { return nil }, []uint64{1, 2, 3, 4, 5, 6, 7, 8}},
		{"first", func(time.Time) []bus.ConsumeOption { return []bus.ConsumeOption{bus.StartAtFirst()} }, []uint64{1, 2, 3, 4, 5, 6, 7, 8}},
		{"last", func(time.Time) []bus.ConsumeOption { return []bus.ConsumeOption{bus.StartAtLast()} }, []uint64{6, 7, 8}},
		{"new", func(time.Time) []bus.ConsumeOption { return []bus.ConsumeOption{bus.StartAtNew()} }, []uint64{7, 8}},
		{"sequence", func(time.Time) []bus.ConsumeOption { return []bus.ConsumeOption{bus.StartAtSequence(4)} }, []uint64{4, 5, 6, 7, 8}},
		{"sequence to come", func(time.Time) []bus.ConsumeOption { return []bus.ConsumeOption{bus.StartAtSequence(7)} }, []uint64{7, 8}},
		{"time", func(began time.Time) []bus.ConsumeOption {
			return []bus.ConsumeOption{bus.StartAtTime(began.Add(2*time.Minute + time.Second))}
		}, []uint64{4, 5, 6, 7, 8}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st, began := filledByMinute(t, b, 6)
				var got ledger
				opts := tc.start(began)
				must(t, consume(t, st, "d", "s.*", got.handle, opts...).Drain(t.Context()))
				// The durable goes on where it is, whether or not that is said again.
				must(t, consume(t, st, "d", "s.*", got.handle, opts...).Drain(t.Context()))
				storeRange(t, st, "s.a", 6, 8)
				consume(t, st, "d", "s.*", got.handle)
				pass(time.Minute) // what was on its way to who ended comes after AckWait
				if all := slices.Sorted(slices.Values(got.sequences())); !slices.Equal(all, tc.want) {
					t.Errorf("got %v, want %v", all, tc.want)
				}
			})
		})
	}
}

// Another start than the durable's is refused, and told.
func TestStartAtOnADurableThatExists(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	starts := map[string]bus.StartOption{"first": bus.StartAtFirst(), "last": bus.StartAtLast(),
		"new": bus.StartAtNew(), "seq": bus.StartAtSequence(3), "otherseq": bus.StartAtSequence(4), "time": bus.StartAtTime(at)}
	for durable, start := range starts {
		must(t, consume(t, st, durable, "S", ignore[int], start).Drain(t.Context()))
	}
	for durable := range starts {
		for name, start := range starts {
			con, err := bus.Consume(t.Context(), st, durable, "S", ignore[int], start)
			if name == durable {
				must(t, err)
				must(t, con.Drain(t.Context()))
				continue
			}
			if e := asError[*bus.ConsumerConflictError](t, err, "start: have"); len(e.Fields) != 1 || e.Fields[0].Have == e.Fields[0].Want {
				t.Errorf("%s on %s: %+v", name, durable, e)
			}
		}
	}
	_, err := bus.Consume(t.Context(), st, "new", "S", ignore[int], bus.StartAtSequence(3))
	hasText(t, err, "start: have new, want sequence 3")
	_, err = bus.Consume(t.Context(), st, "first", "S", ignore[int], bus.StartAtTime(at))
	hasText(t, err, "start: have first, want 2020-01-02T03:04:05Z")
}

func TestStartAtMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	for option, start := range map[string]bus.StartOption{"StartAtSequence": bus.StartAtSequence(0), "StartAtTime": bus.StartAtTime(time.Time{}), "Consume": {}} {
		_, err := bus.Consume(context.Background(), st, "d", "S", ignore[int], start)
		if e := asError[*bus.OptionError](t, err); e.Option != option {
			t.Errorf("got %+v", e)
		}
	}
}

func TestStartsThatContradict(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	try := func(opts ...bus.ConsumeOption) error {
		_, err := bus.Consume(t.Context(), st, "d", bus.Subject[int]("S"), ignore[int], opts...)
		return err
	}
	asError[*bus.OptionError](t, try(bus.StartAtFirst(), bus.StartAtNew()), "start", "new", "first already")
	asError[*bus.OptionError](t, try(bus.StartAtSequence(2), bus.StartAtSequence(3)), "sequence 3", "sequence 2")
	must(t, try(bus.StartAtNew(), bus.StartAtNew()))
}
