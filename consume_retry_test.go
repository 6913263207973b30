package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// A failed message comes again as the policy says; the server knows nothing of it.
func TestConsumeRetries(t *testing.T) {
	t.Parallel()
	s := time.Second
	for _, tc := range []struct {
		name   string
		policy []bus.ConsumeOption
		waits  []time.Duration // each less up to a quarter
	}{
		{"as the default says", nil, []time.Duration{s / 10, s / 5, 2 * s / 5, 4 * s / 5, 8 * s / 5, 16 * s / 5}},
		{"doubled up to the most", []bus.ConsumeOption{bus.Retry(bus.RetryPolicy{MinBackoff: s, MaxBackoff: 5 * s})}, []time.Duration{s, 2 * s, 4 * s, 5 * s, 5 * s, 5 * s}},
		{"always the same", []bus.ConsumeOption{bus.Retry(bus.RetryPolicy{MinBackoff: 60 * s, MaxBackoff: 60 * s}), bus.AckWait(s)}, []time.Duration{60 * s, 60 * s, 60 * s}},
		{"begins beyond the default's most", []bus.ConsumeOption{bus.Retry(bus.RetryPolicy{MinBackoff: 15 * time.Minute})}, []time.Duration{15 * time.Minute, 15 * time.Minute}},
		{"only the most", []bus.ConsumeOption{bus.Retry(bus.RetryPolicy{MaxBackoff: s / 5})}, []time.Duration{s / 10, s / 5, s / 5}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				var calls attempts
				boom := errors.New("boom")
				con := consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
					calls.note(m)
					if m.Deliveries != 1 {
						t.Errorf("it was delivered %d times", m.Deliveries)
					}
					if m.Attempt <= len(tc.waits) {
						return boom
					}
					return nil
				}, tc.policy...)
				storeRange(t, st, "S", 0, 1)
				pass(time.Hour)
				if len(calls.at) != len(tc.waits)+1 {
					t.Fatalf("%d calls, want %d", len(calls.at), len(tc.waits)+1)
				}
				for i, want := range tc.waits {
					if waited := calls.at[i+1].Sub(calls.at[i]); waited > want || waited < want*3/4 || calls.numbers[i] != i+1 {
						t.Errorf("attempt %d came after %v, want %v less up to a quarter", calls.numbers[i+1], waited, want)
					}
					e := nextEvent(t, events, event.Retry)
					isError(t, e.Err, boom)
					if e.Stream != "S" || e.Durable != "c" || e.Sequence != 1 || e.Subject != "S" || e.Time.IsZero() {
						t.Errorf("the event is %+v", e)
					}
				}
				nothing(t, events)
				must(t, con.Drain(t.Context()))
				mustBeDone(t, b, "S", "c")
				if s := b.Stats(); s.Handled != 1 || s.HandlerErrors != int64(len(tc.waits)) {
					t.Errorf("handled %d, errors %d", s.Handled, s.HandlerErrors)
				}
			}, record, bus.WithLogger(silent()))
		})
	}
}

// RetryAfter overrides the policy once, exactly.
func TestConsumeRetryAfter(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		var calls attempts
		boom := errors.New("boom")
		consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
			calls.note(m)
			switch m.Attempt {
			case 1:
				return bus.RetryAfter(10*time.Minute, boom)
			case 2:
				return fmt.Errorf("wrapped: %w", bus.RetryAfter(time.Minute, boom))
			case 3:
				return bus.RetryAfter(0, boom)
			case 4:
				return bus.RetryAfter(-time.Hour, boom)
			case 5:
				return boom // by the policy again, as the fifth attempt
			}
			return bus.RetryAfter(time.Hour, nil)
		}, bus.Retry(bus.RetryPolicy{MinBackoff: time.Second, MaxBackoff: time.Hour}), bus.AckWait(time.Second))
		storeRange(t, st, "S", 0, 1)
		pass(time.Hour)
		if !slices.Equal(calls.numbers, []int{1, 2, 3, 4, 5, 6}) {
			t.Fatalf("the attempts were %v", calls.numbers)
		}
		for i, want := range []time.Duration{10 * time.Minute, time.Minute, 0, 0} {
			if waited := calls.at[i+1].Sub(calls.at[i]); waited != want {
				t.Errorf("attempt %d came after %v, want %v", i+2, waited, want)
			}
		}
		if waited := calls.at[5].Sub(calls.at[4]); waited > 16*time.Second || waited < 12*time.Second {
			t.Errorf("attempt 6 came after %v, want 16 s less up to a quarter", waited)
		}
		mustBeDone(t, b, "S", "c")
	})
}

// While messages wait for their next attempt, others go on, even with one handler,
// whether they wait here for a moment or elsewhere for long, and however many.
func TestConsumeGoesOnWhileMessagesWait(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		failing int
		after   time.Duration
	}{
		{"a moment", 100, 10 * time.Second},
		{"long", 100, time.Hour},
		{"a moment, too many to stay here", 1050, 10 * time.Second},
		{"long, more than the server lets be unfinished", 1050, time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				n := tc.failing + 100
				storeRange(t, st, "S", 0, n)
				var got ledger
				began := time.Now()
				consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
					if m.Sequence <= uint64(tc.failing) && m.Attempt == 1 {
						return bus.RetryAfter(tc.after, errors.New("later"))
					}
					if waited := time.Since(began); m.Attempt == 2 && waited < tc.after {
						t.Errorf("message %d came after %v", m.Sequence, waited)
					}
					got.note(m.Sequence)
					return nil
				})
				pass(5 * time.Second)
				if !slices.Equal(got.sequences(), upTo(n)[tc.failing:]) {
					t.Errorf("meanwhile %v were handled", got.sequences())
				}
				pass(tc.after)
				got.mustBeOnce(t, n)
				mustBeDone(t, b, "S", "c")
			}, bus.WithLogger(silent()))
		})
	}
}

// A panic is a failure like others: the message comes again, and nothing else stops.
func TestConsumeRetriesAfterAPanic(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 3)
		var got ledger
		boom := errors.New("boom")
		consume(t, st, "c", "S", func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Sequence == 2 && m.Attempt < 3 {
				panic(boom)
			}
			return got.handle(ctx, m)
		})
		pass(time.Minute)
		if want := []uint64{1, 3, 2}; !slices.Equal(got.sequences(), want) {
			t.Errorf("handled %v, want %v", got.sequences(), want)
		}
		for range 2 {
			e := nextEvent(t, events, event.Retry)
			if p := asError[*bus.PanicError](t, e.Err, "boom"); len(p.Stack) == 0 || e.Sequence != 2 {
				t.Errorf("the event is %+v", e)
			}
			isError(t, e.Err, boom)
		}
		nothing(t, events)
		if s := b.Stats(); s.Handled != 3 || s.HandlerErrors != 2 || s.Subscriptions[0].Panics != 2 {
			t.Errorf("the statistics are %+v", s)
		}
	}, record, bus.WithLogger(silent()))
}

// What cannot be decoded never reaches the handler. Where a newer program may know
// it, it is tried again like any failure; else it is given up at once.
func TestConsumeWhatItCannotDecode(t *testing.T) {
	t.Parallel()
	codecError := func(t *testing.T, err error, text string) { asError[*bus.CodecError](t, err, "decode", `"S"`, text) }
	for _, tc := range []struct {
		name    string
		data    string
		header  nats.Header
		retries int
		cause   bus.Cause
		check   func(*testing.T, error, string)
		text    string
	}{
		{"malformed", "{", nil, 0, bus.CauseMalformed, codecError, "application/json"},
		{"empty", "", nil, 0, bus.CauseMalformed, codecError, "application/json"},
		{"of another type", `"text"`, nil, 0, bus.CauseMalformed, codecError, "application/json"},
		{"not what it says", "2", nats.Header{"Content-Encoding": {"zstd"}}, 0, bus.CauseMalformed, codecError, "zstd"},
		{"unknown content type", "2", nats.Header{"Content-Type": {"application/x-new"}}, 4, bus.CauseMalformed, codecError, "application/x-new"},
		{"unknown encoding", "2", nats.Header{"Content-Encoding": {"br"}}, 4, bus.CauseMalformed, codecError, "br"},
		{"invalid", "3", nil, 0, bus.CauseInvalid, func(t *testing.T, err error, text string) {
			asError[*bus.ValidationError](t, err, `"S"`, text)
		}, "3 is odd"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				_, err := b.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: "S", Data: []byte(tc.data), Header: tc.header})
				must(t, err)
				storeRange(t, st, "S", 2, 3)
				var got ledger
				con := consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[even]) error {
					got.note(m.Sequence)
					return nil
				}, bus.Retry(bus.RetryPolicy{MaxAttempts: 5, MinBackoff: time.Minute, MaxBackoff: time.Minute}))
				pass(10 * time.Minute)
				if want := []uint64{2}; !slices.Equal(got.sequences(), want) {
					t.Errorf("handled %v, want %v", got.sequences(), want)
				}
				kinds := append(slices.Repeat([]event.Kind{event.Retry}, tc.retries), event.DeadLetter)
				for _, kind := range kinds {
					e := nextEvent(t, events, kind)
					tc.check(t, e.Err, tc.text)
					if e.Sequence != 1 || e.Stream != "S" || e.Durable != "c" {
						t.Errorf("the event is %+v", e)
					}
				}
				nothing(t, events)
				must(t, con.Drain(t.Context()))
				mustBeDone(t, b, "S", "c")
				l := onlyDeadLetter(t, st)
				if string(l.Data) != tc.data || l.Cause != tc.cause || l.Sequence != 1 || l.Durable != "c" || l.Attempt != tc.retries+1 {
					t.Errorf("the dead letter is %+v", l)
				}
			}, record, bus.WithLogger(silent()))
		})
	}
}
