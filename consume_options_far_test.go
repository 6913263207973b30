package bus_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// farTimes are beyond what int64 nanoseconds since 1970 can hold.
var farTimes = map[string]time.Time{
	"in the year 1":    time.Date(1, 1, 1, 0, 0, 0, 0, time.FixedZone("", -3600)),
	"of Windows":       time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC),
	"before the first": time.Date(1677, 9, 20, 0, 0, 0, 0, time.UTC),
	"after the last":   time.Date(2262, 4, 12, 0, 0, 0, 0, time.UTC),
	"of SQL":           time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
}

// A time that the server cannot represent is refused where it would count, and means what it
// says where the bus compares it.
func TestFarTimes(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 3)
		c := consume(t, st, "d", "S", giveUp)
		pass(time.Second)
		for name, at := range farTimes {
			for call, err := range map[string]error{
				"Consume": second(bus.Consume(t.Context(), st, "x", "S", ignore[int], bus.StartAtTime(at))),
				"Rewind":  c.Rewind(t.Context(), bus.StartAtTime(at)),
				"Replay":  firstError(bus.Replay(t.Context(), st, bus.Subject[int]("S"), bus.StartAtTime(at))),
			} {
				if e := asError[*bus.OptionError](t, err, "1678", "2262"); e.Option != "StartAtTime" {
					t.Errorf("%s %s: %v", call, name, err)
				}
			}
			past := at.Before(time.Now())
			for filter, matches := range map[*bus.DeadFilter]bool{{From: at}: past, {To: at}: !past} {
				n, err := st.DeadCount(t.Context(), *filter)
				if want := map[bool]int{true: 3}[matches]; err != nil || n != want {
					t.Errorf("%s: %d of %d dead letters, %v", name, n, want, err)
				}
			}
			switch err := c.Pause(t.Context(), at); {
			case past:
				asError[*bus.OptionError](t, err, "has passed")
			case err != nil:
				t.Errorf("%s: %v", name, err)
			}
		}
		storeRange(t, st, "S", 3, 4)
		pass(10 * time.Minute)
		if n := len(deadLetters(t, st, bus.DeadFilter{})); n != 3 {
			t.Errorf("%d messages were handled, the last one during a pause", n)
		}
		must(t, c.Resume(t.Context()))
		pass(time.Second)
		if n := len(deadLetters(t, st, bus.DeadFilter{})); n != 4 {
			t.Errorf("%d messages were handled after the pause", n)
		}
	})
}

// A copy of a stream begins at the time that is given, also in a zone whose offset has seconds,
// or is refused.
func TestFarTimesOfSources(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	storeRange(t, st, "S", 0, 3)
	mirror := func(at time.Time) error {
		return second(b.Stream(t.Context(), bus.StreamConfig{Name: "M", Raw: func(js *jetstream.StreamConfig) {
			js.Subjects, js.Mirror = nil, &jetstream.StreamSource{Name: "S", OptStartTime: &at}
		}}))
	}
	for name, at := range farTimes {
		if e := asError[*bus.OptionError](t, mirror(at), "1678", "2262", `"S"`); e.Option != "StreamConfig.Raw" {
			t.Errorf("%s: %v", name, e)
		}
	}
	must(t, mirror(time.Date(1890, 1, 1, 0, 0, 0, 0, time.FixedZone("LMT", 53*60+28))))
	eventually(t, "the mirror has all messages", func() bool { return streamInfo(t, b, "M").State.Msgs == 3 })
}

// firstError returns the first error of a Replay.
func firstError(messages func(func(*bus.Msg[int], error) bool)) (err error) {
	messages(func(_ *bus.Msg[int], e error) bool {
		err = e
		return e == nil
	})
	return err
}

// A duration with which nanoseconds since 1970 overflow is refused, and the longest one that is
// taken works.
func TestFarDurations(t *testing.T) {
	t.Parallel()
	const longest = 100 * 365 * 24 * time.Hour
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		for _, d := range []time.Duration{longest + time.Second, time.Duration(math.MaxInt64).Truncate(time.Second), math.MaxInt64} {
			st := declare(t, b, bus.StreamConfig{Name: "S", MessageTTL: true})
			for option, err := range map[string]error{
				"TTL":        second(bus.PublishTo(t.Context(), st, "S", 1, bus.TTL(d))),
				"AckWait":    second(bus.Consume(t.Context(), st, "d", "S", ignore[int], bus.AckWait(d))),
				"RateLimit":  second(bus.Consume(t.Context(), st, "d", "S", ignore[int], bus.RateLimit(1, d))),
				"MaxAge":     second(b.Stream(t.Context(), bus.StreamConfig{Name: "X", MaxAge: d})),
				"Duplicates": second(b.Stream(t.Context(), bus.StreamConfig{Name: "X", Duplicates: d})),
			} {
				if _, ok := errors.AsType[*bus.OptionError](err); !ok {
					t.Errorf("%s(%v): got %v", option, d, err)
				}
			}
		}
		st := declare(t, b, bus.StreamConfig{Name: "L", MessageTTL: true, MaxAge: longest, Duplicates: longest})
		must(t, second(bus.PublishTo(t.Context(), st, "L", 1, bus.TTL(longest), bus.MsgID("1"))))
		calls := 0
		consume(t, st, "d", "L", func(context.Context, *bus.Msg[int]) error {
			if calls++; calls == 1 {
				return bus.RetryAfter(math.MaxInt64, errNo)
			}
			return nil
		}, bus.AckWait(longest), bus.Retry(bus.RetryPolicy{MinBackoff: math.MaxInt64}))
		pass(10 * time.Minute)
		if ack, err := bus.PublishTo(t.Context(), st, "L", 1, bus.MsgID("1")); err != nil || !ack.Duplicate {
			t.Errorf("got %+v, %v", ack, err)
		}
		mustHold(t, b, "L", 1, 1)
		if calls != 1 {
			t.Errorf("there were %d calls", calls)
		}
	})
}
