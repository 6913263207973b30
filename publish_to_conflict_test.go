package bus_test

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

func TestExpectations(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		opt    bus.StoreOption
		want   bus.ConflictError // of three messages: s.a, s.b, s.a
		phrase string
	}{
		{"of the stream", bus.ExpectLastSequence(3), bus.ConflictError{}, ""},
		{"of the subject", bus.ExpectLastSubjectSequence(2), bus.ConflictError{}, ""},
		{"of a filter", bus.ExpectLastSequenceOf("s.>", 3), bus.ConflictError{}, ""},
		{"of a filter that matches nothing yet", bus.ExpectLastSequenceOf("s.c", 0), bus.ConflictError{}, ""},
		{"old, of the stream", bus.ExpectLastSequence(2), bus.ConflictError{Stream: "S", Expected: 2, Actual: 3}, `the last sequence is 3, not 2`},
		{"old, of the subject", bus.ExpectLastSubjectSequence(0), bus.ConflictError{Stream: "S", Subject: "s.b", Expected: 0, Actual: 2}, `of "s.b" is 2, not 0`},
		{"from the future", bus.ExpectLastSubjectSequence(9), bus.ConflictError{Stream: "S", Subject: "s.b", Expected: 9, Actual: 2}, "decide again"},
		{"of a filter, old", bus.ExpectLastSequenceOf("*.a", 1), bus.ConflictError{Stream: "S", Subject: "*.a", Expected: 1, Actual: 3}, `of "*.a" is 3`},
		{"of what was never there", bus.ExpectLastSequenceOf("s.c", 1), bus.ConflictError{Stream: "S", Subject: "s.c", Expected: 1}, `is 0, not 1`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, more := range [][]bus.StoreOption{nil, {bus.AutoID()}, {bus.MsgID("x")}} {
				b := bustest.New(t)
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				for _, s := range []bus.Subject[int]{"s.a", "s.b", "s.a"} {
					storeRange(t, st, s, 0, 1)
				}
				ack, err := bus.PublishTo(t.Context(), st, "s.b", 1, append(more, tc.opt)...)
				if tc.phrase == "" {
					if err != nil || ack.Sequence != 4 {
						t.Errorf("got %+v, %v", ack, err)
					}
					continue
				}
				e := asError[*bus.ConflictError](t, err, `"S"`, tc.phrase)
				if e.Stream != tc.want.Stream || e.Subject != tc.want.Subject || e.Expected != tc.want.Expected || e.Actual != tc.want.Actual {
					t.Errorf("got %+v", e)
				}
				if answer := asError[*bus.StreamError](t, err); answer.ErrorCode != 10071 {
					t.Errorf("got %+v", answer)
				}
				mustHold(t, b, "S", 1, 3)
			}
		})
	}
}

func TestExpectationsRefused(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	store := func(opts ...bus.StoreOption) error { return second(bus.PublishTo(t.Context(), st, "s.a", 1, opts...)) }
	asError[*bus.OptionError](t, store(bus.ExpectLastSequence(1), bus.ExpectLastSubjectSequence(1)), "ExpectLastSubjectSequence(1)", "an expectation already, ExpectLastSequence")
	asError[*bus.SubjectError](t, store(bus.ExpectLastSequenceOf("other.>", 0)), "stores nothing that matches", "s.*")
	asError[*bus.SubjectError](t, store(bus.ExpectLastSequenceOf("s..a", 0)))
	for _, name := range []string{"Nats-Expected-Last-Sequence", "nats-expected-last-subject-sequence", "Nats-TTL", "Nats-Batch-Id"} {
		asError[*bus.OptionError](t, store(bus.WithHeader(name, "1")), "use its option")
	}
	asError[*bus.OptionError](t, store(nil), "leave it out")
	mustBeEmpty(t, b, "S")
}

// A message with a MsgID that is stored is a duplicate, whatever it expects: a
// program that repeats itself after a crash must not meet itself.
func TestDuplicateGoesBeforeItsExpectation(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]bus.StoreOption{
		"of the stream": bus.ExpectLastSequence(1), "of the subject": bus.ExpectLastSubjectSequence(1), "of a filter": bus.ExpectLastSequenceOf(">", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			storeRange(t, st, "S", 0, 1)
			for i := range 3 {
				ack, err := bus.PublishTo(t.Context(), st, "S", 1, bus.MsgID("order-1"), opt)
				if err != nil || *ack != (bus.Ack{Stream: "S", Sequence: 2, Duplicate: i > 0}) {
					t.Errorf("got %+v, %v", ack, err)
				}
				storeRange(t, st, "S", 0, 1)
			}
		})
	}
}

// The answer is lost, so the message is sent again and meets itself, or another that
// was there before. The first is no conflict, also when the stream has forgotten IDs.
func TestConflictAfterALostAnswer(t *testing.T) {
	t.Parallel()
	publishers := map[string]func(ctx context.Context, st *bus.Stream, opts ...bus.StoreOption) (*bus.Ack, error){
		"PublishTo": func(ctx context.Context, st *bus.Stream, opts ...bus.StoreOption) (*bus.Ack, error) {
			return bus.PublishTo(ctx, st, "S", 1, opts...)
		},
		"PublishToAsync": func(ctx context.Context, st *bus.Stream, opts ...bus.StoreOption) (*bus.Ack, error) {
			f, err := bus.PublishToAsync(ctx, st, "S", 1, opts...)
			if err != nil {
				return nil, err
			}
			return f.Wait(ctx)
		},
	}
	for name, publish := range publishers {
		for _, tc := range []struct {
			name      string
			forgetful bool // the window for duplicates ends before the answer comes
			other     bool // another message was there
		}{{"itself", false, false}, {"itself, and the window has ended", true, false}, {"another", false, true}, {"another, and the window has ended", true, true}} {
			t.Run(name+"/"+tc.name, func(t *testing.T) {
				t.Parallel()
				b, home, r, _ := remote(t)
				window := time.Minute
				if tc.forgetful {
					window = 100 * time.Millisecond
				}
				st := declare(t, b, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage, Duplicates: window})
				if tc.other {
					storeRange(t, declare(t, home, bus.StreamConfig{Name: "S"}), "S", 0, 1)
				}
				r.deaf.Store(true)
				type result struct {
					ack *bus.Ack
					err error
				}
				results := make(chan result, 1)
				sent := sentOn(t, home, "S")
				go func() {
					ack, err := publish(t.Context(), st, bus.MsgID("1"), bus.ExpectLastSubjectSequence(0))
					results <- result{ack, err}
				}()
				receive(t, sent)
				if tc.forgetful && !tc.other {
					eventually(t, "the ID is forgotten", func() bool { return !knows(t, home, "S", "1") })
				}
				r.cut(false)
				r.deaf.Store(false)
				got := receive(t, results)
				if tc.other {
					if e := asError[*bus.ConflictError](t, got.err); e.Actual != 1 || e.Expected != 0 {
						t.Errorf("got %+v", e)
					}
				} else if got.err != nil || *got.ack != (bus.Ack{Stream: "S", Sequence: 1, Duplicate: true}) {
					t.Errorf("got %+v, %v", got.ack, got.err)
				}
				mustHold(t, home, "S", 1, 1)
			})
		}
	}
}

// sentOn tells of messages on subject that have reached the server.
func sentOn(t testing.TB, b *bus.Bus, subject string) <-chan *nats.Msg {
	t.Helper()
	ch := make(chan *nats.Msg, 100)
	nc := rawClient(t, b)
	must(t, second(nc.ChanSubscribe(subject, ch)))
	flushRaw(t, nc)
	return ch
}

// knows reports whether a stream takes the ID for a duplicate.
func knows(t testing.TB, b *bus.Bus, subject, id string) bool {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Header.Set("Nats-Msg-Id", id)
	m.Header.Set("Nats-Rollup", "none")
	reply, err := b.Conn().RequestMsgWithContext(t.Context(), m)
	must(t, err)
	return !bytes.Contains(reply.Data, []byte(`"err_code":10111`))
}

func TestTTL(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		e := asError[*bus.UnsupportedError](t, second(bus.PublishTo(t.Context(), st, "S", 0, bus.TTL(time.Second))), `"S"`, "without MessageTTL", "declare it again")
		if e.Stream != "S" || !slices.Equal(e.Fields, []string{"MessageTTL"}) {
			t.Errorf("got %+v", e)
		}
		f, err := bus.PublishToAsync(t.Context(), st, "S", 0, bus.TTL(time.Second))
		must(t, err)
		asError[*bus.UnsupportedError](t, second(f.Wait(t.Context())))

		st = declare(t, b, bus.StreamConfig{Name: "S", MessageTTL: true})
		declare(t, b, bus.StreamConfig{Name: "S"}) // leaves it on
		for _, d := range []time.Duration{time.Second, time.Hour} {
			must(t, second(bus.PublishTo(t.Context(), st, "S", 0, bus.TTL(d))))
		}
		storeRange(t, st, "S", 0, 1)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		mustHold(t, b, "S", 2, 3)
		time.Sleep(time.Hour)
		synctest.Wait()
		mustHold(t, b, "S", 3, 3)
		for _, d := range []time.Duration{0, -time.Second, 999 * time.Millisecond, 1500 * time.Millisecond} {
			asError[*bus.OptionError](t, second(bus.PublishTo(t.Context(), st, "S", 0, bus.TTL(d))), "TTL("+d.String()+")", "whole seconds")
		}
	})
}

// Each message has an identifier of its own; one that is given goes before it.
func TestAutoID(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	h, got := whole[int](3)
	consume(t, st, "c", "S", h)
	auto := bus.AutoID()
	for _, opts := range [][]bus.StoreOption{{auto}, {auto}, {auto, bus.MsgID("mine")}, {bus.MsgID("mine"), auto}} {
		must(t, second(bus.PublishTo(t.Context(), st, "S", 1, opts...)))
	}
	first, other, mine := receive(t, got).ID, receive(t, got).ID, receive(t, got).ID
	if len(first) < 16 || first == other || mine != "mine" {
		t.Errorf("got %q, %q, %q", first, other, mine)
	}
	mustHold(t, b, "S", 1, 3)
}
