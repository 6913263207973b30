package bus_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// durablesOf returns the names of the consumers of a stream.
func durablesOf(t testing.TB, b *bus.Bus, stream string) (names []string) {
	t.Helper()
	st, err := b.JetStream().Stream(t.Context(), stream)
	must(t, err)
	l := st.ConsumerNames(t.Context())
	for name := range l.Name() {
		names = append(names, name)
	}
	must(t, l.Err())
	return names
}

// A Consume that a side stream refuses leaves no durable, which would keep all messages of an
// interest stream. A durable that existed stays.
func TestRefusedConsumeLeavesNoDurable(t *testing.T) {
	t.Parallel()
	for name, side := range map[string]jetstream.StreamConfig{
		"S-dead of the program":  {Name: "S-dead", Subjects: []string{"mine"}},
		"S-retry of the program": {Name: "S-retry", Subjects: []string{"mine"}},
		"S-retry is full": {Name: "S-retry", Subjects: []string{"$OMNIBUS.retry.S.>", "$OMNIBUS.later.S.>", "$OMNIBUS.note.S.>"},
			Retention: jetstream.WorkQueuePolicy, MaxConsumers: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			st := declare(t, b, bus.StreamConfig{Name: "S", Retention: bus.InterestRetention})
			_, err := b.JetStream().CreateStream(t.Context(), side)
			must(t, err)
			if side.MaxConsumers > 0 {
				_, err := b.JetStream().CreateConsumer(t.Context(), side.Name, jetstream.ConsumerConfig{Durable: "other",
					AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "$OMNIBUS.retry.S.other.>"})
				must(t, err)
			}
			if err := second(bus.Consume(t.Context(), st, "d", "S", ignore[int])); err == nil {
				t.Fatal("Consume was not refused")
			}
			if left := durablesOf(t, b, "S"); len(left) > 0 {
				t.Errorf("there are the durables %v", left)
			}
			storeRange(t, st, "S", 0, 5)
			if n := streamInfo(t, b, "S").State.Msgs; n > 0 {
				t.Errorf("the stream keeps %d messages", n)
			}
			_, err = b.JetStream().CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1})
			must(t, err)
			before := consumerInfo(t, b, "S", "d")
			if err := second(bus.Consume(t.Context(), st, "d", "S", ignore[int], bus.AckWait(time.Minute), bus.KeyBySubject())); err == nil {
				t.Fatal("Consume was not refused")
			}
			if now := consumerInfo(t, b, "S", "d"); !now.Created.Equal(before.Created) || !reflect.DeepEqual(now.Config, before.Config) {
				t.Errorf("the durable was %+v, and is %+v", before.Config, now.Config)
			}
		})
	}
}

// A Consume whose context ends, at whatever moment, leaves no durable.
func TestConsumeThatIsGivenUpLeavesNoDurable(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Retention: bus.InterestRetention})
	var want []string
	failed := 0
	for i := range 60 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*i)*time.Microsecond)
		name := fmt.Sprint("d", i)
		if _, err := bus.Consume(ctx, st, name, "S", ignore[int]); err == nil {
			want = append(want, name)
		} else {
			failed++
		}
		cancel()
	}
	consume(t, st, "last", "S", ignore[int]) // S-retry exists, however slow the machine is
	want = append(want, "last")
	got := durablesOf(t, b, "S")
	slices.Sort(got)
	slices.Sort(want)
	if failed == 0 || !slices.Equal(got, want) {
		t.Errorf("%d calls failed; there are the durables %v, want %v", failed, got, want)
	}
	if retry := durablesOf(t, b, "S-retry"); len(retry) != len(want) {
		t.Errorf("S-retry has the durables %v, want %v", retry, want)
	}
}

// S-retry allows as many consumers as the stream, also after a change.
func TestSideStreamsHaveTheConsumerLimits(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	limits := func(consumers, pending int) *bus.Stream {
		return declare(t, b, bus.StreamConfig{Name: "S", Raw: func(c *jetstream.StreamConfig) {
			c.MaxConsumers, c.ConsumerLimits.MaxAckPending = consumers, pending
		}})
	}
	for _, n := range []int{1, 5000} {
		consume(t, limits(n, 7), fmt.Sprint("d", n), "S", ignore[int])
		if got := configOf(t, b, "S-retry"); got.MaxConsumers != n || got.ConsumerLimits.MaxAckPending != 7 {
			t.Errorf("S-retry allows %d consumers and %+v", got.MaxConsumers, got.ConsumerLimits)
		}
		for _, stream := range []string{"S", "S-retry"} {
			if got := consumerInfo(t, b, stream, fmt.Sprint("d", n)).Config.MaxAckPending; got != 7 {
				t.Errorf("the durable of %s may have %d messages", stream, got)
			}
		}
	}
}
