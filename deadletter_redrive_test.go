package bus_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/event"
)

// mendable is a handler that fails until it is mended.
type mendable[T any] struct {
	mended atomic.Bool
	got    chan *bus.Msg[T]
}

func newMendable[T any]() *mendable[T] { return &mendable[T]{got: make(chan *bus.Msg[T], 1000)} }

func (h *mendable[T]) handle(_ context.Context, m *bus.Msg[T]) error {
	if !h.mended.Load() {
		return bus.Permanent(errors.New("not yet"))
	}
	h.got <- m
	return nil
}

// received takes all that was handled.
func (h *mendable[T]) received() (all []*bus.Msg[T]) {
	for len(h.got) > 0 {
		all = append(all, <-h.got)
	}
	return all
}

// Each consumer gets its own dead letters, in the order of the stream.
func TestRedriveToSeveralConsumers(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		n := underRace(60, 200)
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		handlers := map[string]*mendable[int]{"a": newMendable[int](), "b": newMendable[int](), "c": newMendable[int]()}
		for name, h := range handlers {
			consume(t, st, name, "s", h.handle)
		}
		handlers["c"].mended.Store(true)
		storeRange(t, st, "s", 0, n)
		pass(time.Minute)
		handlers["c"].received()
		if given, err := st.Redrive(t.Context(), bus.DeadFilter{}); given != 2*n || err != nil { // and they die at once
			t.Errorf("%d were redriven, %v", given, err)
		}
		pass(time.Minute)
		if again, err := st.DeadCount(t.Context(), bus.DeadFilter{}); again != 2*n || err != nil {
			t.Fatalf("%d are dead again, %v", again, err)
		}
		handlers["a"].mended.Store(true)
		handlers["b"].mended.Store(true)
		given, err := st.Redrive(t.Context(), bus.DeadFilter{})
		must(t, err)
		pass(time.Minute)
		if given != 2*n {
			t.Errorf("%d were redriven", given)
		}
		for name, want := range map[string]int{"a": n, "b": n, "c": 0} {
			got := values(handlers[name].received())
			if len(got) != want || !slices.IsSorted(got) {
				t.Errorf("%s handled %d in the order %v", name, len(got), got)
			}
		}
		if left, err := st.DeadCount(t.Context(), bus.DeadFilter{}); left != 0 || err != nil {
			t.Errorf("%d are left, %v", left, err)
		}
	})
}

func TestRedriveRate(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		h := newMendable[int]()
		consume(t, st, "d", "s", h.handle)
		storeRange(t, st, "s", 0, 100)
		pass(time.Minute)
		h.mended.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 9700*time.Millisecond)
		defer cancel()
		n, err := st.Redrive(ctx, bus.DeadFilter{Rate: 2})
		isError(t, err, context.DeadlineExceeded, "Redrive")
		pass(time.Second)
		left, _ := st.DeadCount(t.Context(), bus.DeadFilter{})
		if got := h.received(); n != 20 || len(got) != n || left != 100-n {
			t.Errorf("%d were redriven, %d handled, %d are left", n, len(got), left)
		}
		began := time.Now()
		n, err = st.Redrive(t.Context(), bus.DeadFilter{Match: func(l *bus.DeadLetter) bool { return l.Sequence > 97 }, Rate: 0.01})
		must(t, err)
		if took := time.Since(began); n != 3 || took < 200*time.Second || took > 201*time.Second {
			t.Errorf("%d took %v", n, took)
		}
	})
}

// A dead letter is given back with another payload; the rest stays as it was.
func TestRedriveAs(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		got := make(chan *bus.Msg[even], 10)
		handle, others := func(_ context.Context, m *bus.Msg[even]) error { got <- m; return nil }, newMendable[even]()
		consume(t, st, "d", "s", handle)
		consume(t, st, "other", "s", others.handle)
		began := time.Now()
		for _, data := range []string{"{", "3"} {
			_, err := bus.PublishTo(t.Context(), st, "s", []byte(data), bus.MsgID("id"+data), bus.WithHeader("Tenant", "x"), bus.WithHeader("Drop", "y"))
			must(t, err)
		}
		pass(time.Minute)
		ls := deadLetters(t, st, bus.DeadFilter{Durable: "d"})
		if len(ls) != 2 {
			t.Fatalf("%d dead letters", len(ls))
		}
		delete(ls[1].Header, "Drop")
		edited := time.Now()
		must(t, bus.RedriveAs(t.Context(), ls[0], even(8), bus.WithHeader("tenant", "z")))
		must(t, bus.RedriveAs(t.Context(), ls[1], even(10), bus.As(codec.CBOR)))
		pass(time.Minute)
		first, next := receive(t, got), receive(t, got)
		if first.Data != 8 || first.Sequence != 1 || first.ID != "id{" || first.Attempt != 1 || first.Subject != "s" || !first.Time.Equal(began) ||
			first.Header.Get("tenant") != "z" || first.Header.Get("Drop") != "y" || first.Header.Get("Bus-Edited") != edited.UTC().Format(time.RFC3339Nano) || len(first.Header) != 4 {
			t.Errorf("got %+v", first)
		}
		if next.Data != 10 || next.Header.Get("Tenant") != "x" || next.Header.Get("Drop") != "" || next.Header.Get("Content-Type") != "application/cbor" {
			t.Errorf("got %+v", next)
		}
		if n := len(deadLetters(t, st, bus.DeadFilter{Durable: "d"})); n != 0 {
			t.Errorf("%d dead letters are left", n)
		}
		if n := len(deadLetters(t, st, bus.DeadFilter{Durable: "other"})); n != 2 {
			t.Errorf("the other consumer has %d dead letters", n)
		}
		nothing(t, got)
	})
}

// A dead letter that dies again keeps the record of its edits. Bytes are of its content type.
func TestRedriveAsTwice(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		got := make(chan *bus.Msg[even], 10)
		consume(t, st, "d", "s", func(_ context.Context, m *bus.Msg[even]) error { got <- m; return nil })
		_, err := bus.PublishTo(t.Context(), st, "s", uint8(3), bus.As(codec.CBOR))
		must(t, err)
		data := []byte{4} // in CBOR
		for i, v := range [][]byte{{5}, {7}, data} {
			pass(time.Minute)
			ls := deadLetters(t, st, bus.DeadFilter{})
			if len(ls) != 1 || ls[0].Cause != bus.CauseInvalid || len(ls[0].Header.Values("Bus-Edited")) != i {
				t.Fatalf("%d dead letters: %+v", len(ls), ls)
			}
			must(t, bus.RedriveAs(t.Context(), ls[0], v))
		}
		pass(time.Minute)
		if m := receive(t, got); m.Data != 4 || len(m.Header.Values("Bus-Edited")) != 3 {
			t.Errorf("got %+v", m)
		}
	})
}

// What somebody else has given back or discarded is not edited and handled once more.
func TestRedriveAsOfALetterThatIsGone(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		h := newMendable[int]()
		consume(t, st, "d", "s", h.handle)
		storeRange(t, st, "s", 0, 3)
		pass(time.Minute)
		ls := deadLetters(t, st, bus.DeadFilter{})
		if len(ls) != 3 {
			t.Fatalf("%d dead letters", len(ls))
		}
		h.mended.Store(true)
		must(t, second(st.Redrive(t.Context(), bus.DeadFilter{Sequence: 1})))
		must(t, second(st.Discard(t.Context(), bus.DeadFilter{Sequence: 2})))
		must(t, bus.RedriveAs(t.Context(), ls[2], 7))
		pass(time.Minute)
		for i, l := range ls {
			asError[*bus.StreamError](t, bus.RedriveAs(t.Context(), l, 100), fmt.Sprintf("message %d", i+1), "DeadLetters again")
		}
		pass(time.Minute)
		got := []int{receive(t, h.got).Data, receive(t, h.got).Data}
		if nothing(t, h.got); !slices.Equal(got, []int{0, 7}) {
			t.Errorf("got %v", got)
		}
	})
}

// An edit that a crash cut off may be repeated; another one is refused while the first
// one waits.
func TestRedriveAsAfterACrash(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		h := newMendable[int]()
		con := consume(t, st, "d", "s", h.handle)
		storeRange(t, st, "s", 0, 1)
		pass(time.Minute)
		must(t, con.Drain(t.Context()))
		l := deadLetters(t, st, bus.DeadFilter{})[0]
		js, err := b.JetStream().Stream(t.Context(), "S-dead")
		must(t, err)
		kept, err := js.GetLastMsgForSubject(t.Context(), "$OMNIBUS.dead.>")
		must(t, err)
		must(t, bus.RedriveAs(t.Context(), l, 7))
		again, err := b.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: kept.Subject, Header: kept.Header, Data: kept.Data}) // as if it had not been removed
		must(t, err)
		retries, err := b.JetStream().Stream(t.Context(), "S-retry")
		must(t, err)
		given, err := retries.GetLastMsgForSubject(t.Context(), "$OMNIBUS.retry.>")
		must(t, err)
		must(t, retries.DeleteMsg(t.Context(), given.Sequence))
		given.Header.Set("Bus-Dead-Letter", strconv.FormatUint(again.Sequence, 10)) // the dead letter would be where it was
		must(t, second(b.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: given.Subject, Header: given.Header, Data: given.Data})))
		l = deadLetters(t, st, bus.DeadFilter{})[0]
		asError[*bus.StreamError](t, bus.RedriveAs(t.Context(), l, 8), "waits for its consumer")
		pass(time.Hour)
		must(t, bus.RedriveAs(t.Context(), l, 7))
		if n, err := st.DeadCount(t.Context(), bus.DeadFilter{}); n != 0 || err != nil {
			t.Errorf("%d dead letters are left, %v", n, err)
		}
		h.mended.Store(true)
		consume(t, st, "d", "s", h.handle)
		pass(time.Minute)
		if got := values(h.received()); !slices.Equal(got, []int{7}) {
			t.Errorf("handled %v", got)
		}
	})
}

// What was published by a client without a reserve, up to the last byte that the server
// takes, has a dead letter that refers to it. With a higher limit it can be given back.
func TestDeadLetterOfAMessageThatIsTooLargeForOne(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	foreign := func(size int, headers int) *nats.Msg {
		m := &nats.Msg{Subject: "s", Data: bytes.Repeat([]byte("x"), size), Header: nats.Header{}}
		for i := range headers {
			m.Header[fmt.Sprintf("Nats-X-%d", i)] = []string{"y"} // each gets eight bytes longer in a copy
		}
		return m
	}
	for _, tc := range []struct {
		name      string
		msg       *nats.Msg
		reference bool
		never     bool // can be given back, as its headers do not fit with any limit
	}{
		{"of the largest size", foreign(limit, 0), true, false},
		{"with a reserve", foreign(limit-8<<10, 0), false, false},
		{"with many headers", foreign(1000, 3000), true, true},
		{"with large headers", &nats.Msg{Subject: "s", Header: nats.Header{"Large": {strings.Repeat("y", 50<<10)}}}, false, false},
		{"with the largest headers", &nats.Msg{Subject: "s", Header: nats.Header{"Large": {strings.Repeat("y", 64<<10-100)}}}, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
				dir := bus.WithStoreDir(t.TempDir() + "/store")
				small := bustest.New(t, dir, bus.WithMaxPayload(limit))
				st := declare(t, small, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
				_, err := small.JetStream().PublishMsg(t.Context(), tc.msg)
				must(t, err)
				h := newMendable[[]byte]()
				consume(t, st, "d", "s", h.handle)
				pass(time.Minute)
				ls := deadLetters(t, st, bus.DeadFilter{})
				if len(ls) != 1 || ls[0].Reference != tc.reference || (len(ls[0].Data) == len(tc.msg.Data)) == (tc.reference && len(tc.msg.Data) > 0) {
					t.Fatalf("%d dead letters", len(ls))
				}
				mustBeDone(t, small, "S", "d")
				if tc.reference {
					asError[*bus.StreamError](t, second(st.Redrive(t.Context(), bus.DeadFilter{})), "redrive")
				}
				must(t, small.Close())

				large := bustest.New(t, dir, bus.WithMaxPayload(4*limit))
				st, err = large.LookupStream(t.Context(), "S")
				must(t, err)
				h.mended.Store(true)
				consume(t, st, "d", "s", h.handle)
				n, err := st.Redrive(t.Context(), bus.DeadFilter{})
				if tc.never {
					asError[*bus.StreamError](t, err, "header size exceeds")
					l := deadLetters(t, st, bus.DeadFilter{})[0]
					must(t, bus.RedriveAs(t.Context(), l, tc.msg.Data))
					tc.msg.Header = nats.Header{"Bus-Edited": nil}
				} else if must(t, err); n != 1 {
					t.Errorf("%d were redriven", n)
				}
				pass(time.Minute)
				if m := receive(t, h.got); !bytes.Equal(m.Data, tc.msg.Data) || len(m.Header) != len(tc.msg.Header) {
					t.Errorf("got %d bytes and %d headers", len(m.Data), len(m.Header))
				}
				must(t, large.Close())
			})
		})
	}
}

// Where a stream does not keep what is done, a message that is too large for a dead letter
// stays in it, and that is told.
func TestMessageThatIsTooLargeForADeadLetterInAWorkQueue(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := rawStream(t, b, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.MemoryStorage})
		_, err := b.JetStream().Publish(t.Context(), "s", make([]byte, 64<<10))
		must(t, err)
		h := newMendable[[]byte]()
		consume(t, st, "d", "s", h.handle)
		pass(10 * time.Minute)
		asError[*bus.PayloadError](t, awaitEvent(t, events, event.DeadLetterFailed).Err)
		mustHold(t, b, "S", 1, 1)
	}, record, bus.WithMaxPayload(64<<10))
}

// A dead letter that only refers to a message goes with it.
func TestRedriveOfAReferenceToWhatIsGone(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		_, err := b.JetStream().Publish(t.Context(), "s", make([]byte, 64<<10))
		must(t, err)
		consume(t, st, "d", "s", newMendable[[]byte]().handle)
		pass(time.Minute)
		must(t, purge(t, b, "S", 0))
		asError[*bus.StreamError](t, second(st.Redrive(t.Context(), bus.DeadFilter{})), "not in the stream any more", "Discard")
		n, err := st.Discard(t.Context(), bus.DeadFilter{})
		if must(t, err); n != 1 {
			t.Errorf("%d were discarded", n)
		}
	}, bus.WithMaxPayload(64<<10))
}

// What nobody would take is not given back: neither that nor the dead letters that fit
// beside it.
func TestRedriveToAConsumerThatWasDeleted(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		h := newMendable[int]()
		old := consume(t, st, "old", "s", h.handle)
		consume(t, st, "new", "s", h.handle)
		storeRange(t, st, "s", 0, 3)
		pass(time.Minute)
		must(t, old.Drain(t.Context()))
		must(t, b.JetStream().DeleteConsumer(t.Context(), "S", "old"))
		asError[*bus.ConsumerError](t, second(st.Redrive(t.Context(), bus.DeadFilter{})), `"old"`)
		must(t, b.JetStream().DeleteConsumer(t.Context(), "S-retry", "old"))
		n, err := st.Redrive(t.Context(), bus.DeadFilter{})
		if e := asError[*bus.ConsumerError](t, err, `"S"`, `"old"`, "nothing was redriven", "DeadFilter"); n != 0 || e.Stream != "S" || e.Durable != "old" {
			t.Errorf("%d were redriven, %+v", n, e)
		}
		asError[*bus.ConsumerError](t, bus.RedriveAs(t.Context(), deadLetters(t, st, bus.DeadFilter{Durable: "old"})[0], 7))
		if n, err := st.DeadCount(t.Context(), bus.DeadFilter{}); n != 6 || err != nil {
			t.Errorf("%d dead letters are left, %v", n, err)
		}
		h.mended.Store(true)
		n, err = st.Redrive(t.Context(), bus.DeadFilter{Durable: "new"})
		if must(t, err); n != 3 {
			t.Errorf("%d were redriven", n)
		}
		consume(t, st, "old", "s", h.handle, bus.StartAtLast())
		n, err = st.Redrive(t.Context(), bus.DeadFilter{})
		if must(t, err); n != 3 {
			t.Errorf("%d were redriven", n)
		}
		pass(time.Minute)
		if left, err := st.DeadCount(t.Context(), bus.DeadFilter{}); left != 0 || err != nil {
			t.Errorf("%d dead letters are left, %v", left, err)
		}
	})
}

// A dead letter is written before what died is removed from where it was. Who gives it back
// in between, as when told of it, must not take that for what was given back.
func TestRedriveAsSoonAsItIsDead(t *testing.T) {
	t.Parallel()
	for name, redrive := range map[string]func(context.Context, *bus.Stream) error{
		"Redrive": func(ctx context.Context, st *bus.Stream) error { return second(st.Redrive(ctx, bus.DeadFilter{})) },
		"RedriveAs": func(ctx context.Context, st *bus.Stream) error {
			for l, err := range st.DeadLetters(ctx, bus.DeadFilter{}) {
				return cmp.Or(err, bus.RedriveAs(ctx, l, 7))
			}
			return errNo
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var st *bus.Stream
			told := bus.WithEvents(func(e event.Event) {
				if e.Kind == event.DeadLetter {
					if err := redrive(context.Background(), st); err != nil {
						t.Error(err)
					}
				}
			})
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st = declare(t, b, bus.StreamConfig{Name: "S"})
				var got ledger
				var calls atomic.Int32
				consume(t, st, "d", "S", func(ctx context.Context, m *bus.Msg[int]) error {
					switch calls.Add(1) {
					case 1:
						return bus.RetryAfter(time.Hour, errNo) // so it waits in S-retry
					case 2:
						return bus.Permanent(errNo)
					}
					return got.handle(ctx, m)
				})
				storeRange(t, st, "S", 0, 1)
				pass(70 * time.Minute)
				got.mustBeOnce(t, 1)
				if n, err := st.DeadCount(t.Context(), bus.DeadFilter{}); n != 0 || err != nil {
					t.Errorf("%d dead letters are left, %v", n, err)
				}
				if n := streamInfo(t, b, "S-retry").State.Msgs; n != 0 {
					t.Errorf("%d messages are left in S-retry", n)
				}
			}, told)
		})
	}
}

func TestRedriveMistakes(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		for _, rate := range []float64{-1, math.NaN(), math.Inf(1), math.Inf(-1), 1e10, 1e-10, math.SmallestNonzeroFloat64} {
			asError[*bus.OptionError](t, second(st.Redrive(t.Context(), bus.DeadFilter{Rate: rate})), "DeadFilter Rate", "must be 0 for no limit, or from 1.1e-10 to 1e+09")
		}
		for _, rate := range []float64{0, 1.1e-10, 1, 1e9} {
			must(t, second(st.Redrive(t.Context(), bus.DeadFilter{Rate: rate})))
		}
		asError[*bus.OptionError](t, second(st.DeadCount(t.Context(), bus.DeadFilter{Durable: "a b"})))
		asError[*bus.OptionError](t, second(st.DeadCount(t.Context(), bus.DeadFilter{Cause: "nope"})), "DeadFilter Cause", `"nope"`, `"error"`, `"crash loop"`)
		asError[*bus.OptionError](t, second(st.Redrive(t.Context(), bus.DeadFilter{Cause: "nope"})))
		asError[*bus.OptionError](t, second(st.DeadCount(t.Context(), bus.DeadFilter{From: time.Now(), To: time.Now().Add(-1)})), "DeadFilter To", "before From")
		must(t, second(st.DeadCount(t.Context(), bus.DeadFilter{From: time.Now(), To: time.Now()})))
		hasText(t, second(st.Discard(t.Context(), bus.DeadFilter{Durable: "a b", Subject: "a b", Cause: "nope"})), `DeadFilter Durable("a b")`, `subject "a b"`, "nope")
		asError[*bus.OptionError](t, second((*bus.Stream)(nil).DeadCount(t.Context(), bus.DeadFilter{})))
		if n, err := st.DeadCount(t.Context(), bus.DeadFilter{}); n != 0 || err != nil {
			t.Errorf("counted %d, %v", n, err)
		}
		asError[*bus.OptionError](t, bus.RedriveAs(t.Context(), nil, 1), "dead letter")
		asError[*bus.OptionError](t, bus.RedriveAs(t.Context(), &bus.DeadLetter{}, 1), "dead letter")
		consume(t, st, "d", "s", newMendable[int]().handle)
		storeRange(t, st, "s", 0, 1)
		pass(time.Minute)
		l := deadLetters(t, st, bus.DeadFilter{})[0]
		asError[*bus.ValidationError](t, bus.RedriveAs(t.Context(), l, even(3)))
		asError[*bus.CodecError](t, bus.RedriveAs(t.Context(), l, make(chan int)))
		asError[*bus.PayloadError](t, bus.RedriveAs(t.Context(), l, make([]byte, 2<<20)))
		asError[*bus.OptionError](t, bus.RedriveAs(t.Context(), l, 1, bus.WithHeader("Bus-Edited", "never")))
		asError[*bus.OptionError](t, bus.RedriveAs(t.Context(), l, 1, nil))
		var noCtx context.Context
		asError[*bus.OptionError](t, bus.RedriveAs(noCtx, l, 1))
		if n, err := st.DeadCount(t.Context(), bus.DeadFilter{}); n != 1 || err != nil {
			t.Errorf("counted %d, %v", n, err)
		}
	})
}
