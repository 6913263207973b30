package bus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/event"
)

// jsonCodec is a codec where any will do.
var jsonCodec = codec.JSON

type blob []byte

type celsius float64

// roundTrip publishes v and returns what a subscriber of the same type got.
func roundTrip[T any](v T) func(*testing.T, *bus.Bus) any {
	return func(t *testing.T, b *bus.Bus) any {
		h, got := collect[T](1)
		_, err := bus.Subscribe(b, "a.*", h)
		must(t, err)
		must(t, bus.Publish(t.Context(), b, "a.b", v))
		return receive(t, got)
	}
}

func TestPublishCarriesEveryKindOfValue(t *testing.T) {
	t.Parallel()
	o := order{ID: "ü", Total: 1.5, Tags: map[string]int{"x": 1}}
	for _, tc := range []struct {
		name string
		trip func(*testing.T, *bus.Bus) any
		want any
	}{
		{"struct", roundTrip(o), o},
		{"pointer", roundTrip(&o), &o},
		{"nil pointer", roundTrip((*order)(nil)), (*order)(nil)},
		{"pointer to pointer", roundTrip(new(&o)), new(&o)},
		{"string", roundTrip("häl\x00lo"), "häl\x00lo"},
		{"empty string", roundTrip(""), ""},
		{"int", roundTrip(-7), -7},
		{"named number", roundTrip(celsius(36.6)), celsius(36.6)},
		{"bool", roundTrip(true), true},
		{"time", roundTrip(time.Unix(1, 2).UTC()), time.Unix(1, 2).UTC()},
		{"slice", roundTrip([]order{o, {}}), []order{o, {}}},
		{"nil slice", roundTrip([]order(nil)), []order(nil)},
		{"map", roundTrip(map[string]int{"a": 1}), map[string]int{"a": 1}},
		{"array", roundTrip([2]int{1, 2}), [2]int{1, 2}},
		{"any", roundTrip[any](map[string]any{"a": "b"}), map[string]any{"a": "b"}},
		{"nil any", roundTrip[any](nil), nil},
		{"empty struct", roundTrip(struct{}{}), struct{}{}},
		{"bytes", roundTrip([]byte{0, 1, 0xff}), []byte{0, 1, 0xff}},
		{"named bytes", roundTrip(blob{0, 1, 0xff}), blob{0, 1, 0xff}},
		{"raw JSON, verbatim", roundTrip(json.RawMessage("{ \"a\" :\n\"<\" }")), json.RawMessage("{ \"a\" :\n\"<\" }")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := tc.trip(t, bustest.New(t)); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %#v, want %#v", got, tc.want)
			}
		})
	}
}

func TestPublishCarriesNothing(t *testing.T) {
	t.Parallel()
	for name, trip := range map[string]func(*testing.T, *bus.Bus) any{
		"nil bytes":   roundTrip([]byte(nil)),
		"empty bytes": roundTrip([]byte{}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := trip(t, bustest.New(t)).([]byte); len(got) != 0 {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestPublishCarriesProtobuf(t *testing.T) {
	t.Parallel()
	want := durationpb.New(90 * time.Second)
	got := roundTrip(want)(t, bustest.New(t)).(*durationpb.Duration)
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPublishKeepsOrder(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	const n = 5000
	got := make(chan string, 2*n)
	_, err := bus.Subscribe(b, "seq.>", func(_ context.Context, m *bus.Msg[int]) error {
		got <- m.Subject + "=" + strconv.Itoa(m.Data)
		return nil
	})
	must(t, err)
	for i := range n {
		must(t, bus.Publish(t.Context(), b, "seq.a", i))
		must(t, bus.Publish(t.Context(), b, "seq.b.c", i))
	}
	for i := range n {
		for _, s := range []string{"seq.a", "seq.b.c"} {
			if v := receive(t, got); v != fmt.Sprintf("%s=%d", s, i) {
				t.Fatalf("got %s, want %s=%d", v, s, i)
			}
		}
	}
}

func TestPublishReachesEverySubscriber(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	var got [50]<-chan int
	for i := range got {
		var h bus.Handler[int]
		h, got[i] = collect[int](10)
		_, err := bus.Subscribe(b, "x.y", h)
		must(t, err)
	}
	for i := range 3 {
		must(t, bus.Publish(t.Context(), b, "x.y", i))
	}
	for i, ch := range got {
		for want := range 3 {
			if v := receive(t, ch); v != want {
				t.Errorf("subscriber %d got %d, want %d", i, v, want)
			}
		}
		nothing(t, ch)
	}
}

// A publish right after Subscribe returned gets through, whoever sends it.
func TestSubscriptionIsActiveAtOnce(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort())
	other := connectTo(t, b)
	raw := rawClient(t, b)
	for i := range 100 {
		h, got := collect[int](10)
		s := bus.Subject[int](fmt.Sprintf("now.%d", i))
		sub, err := bus.Subscribe(b, s, h)
		must(t, err)
		must(t, bus.Publish(t.Context(), other, s, 1))
		must(t, other.Flush(t.Context()))
		must(t, raw.Publish(string(s), []byte("2")))
		flushRaw(t, raw)
		if a, b := receive(t, got), receive(t, got); a+b != 3 {
			t.Fatalf("got %d and %d", a, b)
		}
		must(t, sub.Unsubscribe())
	}
}

// One ID would make one message of many.
func TestPublishBatchWithOneIDForMany(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	err := bus.PublishBatch(t.Context(), b, "a", []int{1, 2}, bus.MsgID("x"))
	if e := asError[*bus.OptionError](t, err, "2", "Publish for each"); e.Option != "MsgID" {
		t.Errorf("got %+v", e)
	}
	must(t, bus.PublishBatch(t.Context(), b, "a", []int{1}, bus.MsgID("x")))
}

func TestPublishBatch(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, anyPort())
	h, got := collect[int](1000)
	_, err := bus.Subscribe(b, "batch", h)
	must(t, err)
	vs := make([]int, 1000)
	for i := range vs {
		vs[i] = i
	}
	must(t, bus.PublishBatch(t.Context(), b, "batch", vs, bus.WithHeader("A", "b")))
	for i := range vs {
		if v := receive(t, got); v != i {
			t.Fatalf("got %d, want %d", v, i)
		}
	}
	must(t, bus.PublishBatch(t.Context(), b, "batch", []int{}))
	if n := b.Stats().Published; n != 1000 {
		t.Errorf("%d published, want 1000", n)
	}
}

// When PublishBatch returns, the server has everything.
func TestPublishBatchFlushes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	sub, err := b.Conn().SubscribeSync("batch")
	must(t, err)
	must(t, bus.PublishBatch(t.Context(), b, "batch", []string{"a", "b"}))
	if n, _, err := sub.Pending(); err != nil || n != 2 {
		t.Errorf("%d messages are there (%v), want 2", n, err)
	}
}

// One bad value means that none was sent.
func TestPublishBatchIsEncodedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, got := collect[any](10)
	_, err := bus.Subscribe(b, "batch", h)
	must(t, err)
	err = bus.PublishBatch(t.Context(), b, "batch", []any{1, 2, make(chan int)})
	asError[*bus.CodecError](t, err, `"batch"`, "chan int")
	must(t, b.Flush(t.Context()))
	nothing(t, got)
	if s := b.Stats(); s.Published != 0 || s.PublishFailed != 1 {
		t.Errorf("published %d, failed %d; want 0, 1", s.Published, s.PublishFailed)
	}
}

// An empty batch is refused where any other would be.
func TestPublishBatchOfNothingIsChecked(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	asError[*bus.SubjectError](t, bus.PublishBatch(t.Context(), b, "a.*", []int{}), "a.*")
	asError[*bus.OptionError](t, bus.PublishBatch(t.Context(), nil, "a", []int{}), "bus is nil")
	asError[*bus.OptionError](t, bus.PublishBatch(t.Context(), b, "a", []int{}, bus.MsgID("")), "MsgID")
	must(t, b.Close())
	isError(t, bus.PublishBatch(t.Context(), b, "a", []int{}), bus.ErrClosed)
}

func TestPublishAsyncKeepsOrder(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithAsyncBuffer(bus.AsyncBuffer{Size: 7}))
	const n = 2000
	h, got := collect[int](n)
	_, err := bus.Subscribe(b, "async", h)
	must(t, err)
	for i := range n {
		must(t, bus.PublishAsync(t.Context(), b, "async", i))
	}
	for i := range n {
		if v := receive(t, got); v != i {
			t.Fatalf("got %d, want %d", v, i)
		}
	}
	eventually(t, "the buffer is empty", func() bool { return b.Stats().AsyncPending == 0 })
}

// The value may be changed after the call, however its type aliases the payload.
func TestPublishAsyncOwnsTheValue(t *testing.T) {
	t.Parallel()
	t.Run("bytes", func(t *testing.T) {
		t.Parallel()
		v := []byte(`"aaaa"`)
		changedAfterPublishAsync(t, v, v)
	})
	t.Run("named bytes", func(t *testing.T) {
		t.Parallel()
		v := blob(`"aaaa"`)
		changedAfterPublishAsync(t, v, v)
	})
	t.Run("raw JSON", func(t *testing.T) {
		t.Parallel()
		v := json.RawMessage(`"aaaa"`)
		changedAfterPublishAsync(t, v, v)
	})
	t.Run("pointer to raw JSON", func(t *testing.T) {
		t.Parallel()
		v := json.RawMessage(`"aaaa"`)
		changedAfterPublishAsync(t, &v, v)
	})
	t.Run("raw JSON as any", func(t *testing.T) {
		t.Parallel()
		v := json.RawMessage(`"aaaa"`)
		changedAfterPublishAsync[any](t, v, v)
	})
	t.Run("bytes with an option", func(t *testing.T) {
		t.Parallel()
		v := []byte(`"aaaa"`)
		changedAfterPublishAsync(t, v, v, bus.WithHeader("A", "b"))
	})
}

// changedAfterPublishAsync publishes v while the sender is held up, overwrites
// memory, which belongs to v, and checks what was sent.
func changedAfterPublishAsync[T any](t *testing.T, v T, memory []byte, opts ...bus.PublishOption) {
	t.Helper()
	b, server := stalledBus(t, bus.AsyncBuffer{Size: 1})
	want := string(memory)
	must(t, bus.PublishAsync(t.Context(), b, "second", v, opts...))
	copy(memory, bytes.Repeat([]byte("X"), len(memory)))
	server.send("PONG\r\n")
	server.expect("second")
	if got := server.line(); !strings.HasPrefix(got, "NATS/1.0") && got != want {
		t.Errorf("sent %s, want %s", got, want)
	} else if got != want {
		server.expect(want) // the payload comes after the header
	}
	server.answerPings()
}

// While the server does not confirm, the buffer fills up.
func TestPublishAsyncFull(t *testing.T) {
	t.Parallel()
	t.Run("NoWait", func(t *testing.T) {
		t.Parallel()
		b, server := stalledBus(t, bus.AsyncBuffer{Size: 2, NoWait: true})
		for i := range 2 {
			must(t, bus.PublishAsync(t.Context(), b, "a", i))
		}
		if n := b.Stats().AsyncPending; n != 2 {
			t.Errorf("%d are pending, want 2", n)
		}
		err := bus.PublishAsync(t.Context(), b, "a", 2)
		isError(t, err, bus.ErrBufferFull, "WithAsyncBuffer")
		server.answerPings()
	})
	t.Run("the wait ends with ctx", func(t *testing.T) {
		t.Parallel()
		b, server := stalledBus(t, bus.AsyncBuffer{Size: 1})
		must(t, bus.PublishAsync(t.Context(), b, "a", 0))
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { result <- bus.PublishAsync(ctx, b, "a", 1) }()
		cancel()
		isError(t, receive(t, result), context.Canceled)
		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		isError(t, bus.PublishAsync(ctx, b, "a", 1), bus.ErrTimeout)
		server.answerPings()
	})
	t.Run("the wait ends with room", func(t *testing.T) {
		t.Parallel()
		b, server := stalledBus(t, bus.AsyncBuffer{Size: 1})
		must(t, bus.PublishAsync(t.Context(), b, "a", 0))
		result := make(chan error)
		go func() { result <- bus.PublishAsync(t.Context(), b, "a", 1) }()
		server.answerPings()
		must(t, receive(t, result))
	})
	t.Run("the wait ends with the bus", func(t *testing.T) {
		t.Parallel()
		b, _ := stalledBus(t, bus.AsyncBuffer{Size: 1})
		must(t, bus.PublishAsync(t.Context(), b, "a", 0))
		result := make(chan error)
		go func() { result <- bus.PublishAsync(t.Context(), b, "a", 1) }()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		unsent := asError[*bus.UnsentError](t, b.Shutdown(ctx))
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("Shutdown took %v, its context 50ms", took)
		}
		// Those that are sent and not confirmed, the one in the buffer, and maybe
		// the one that waited: it may have been taken in at the last moment.
		err := receive(t, result)
		want := unconfirmed + 1
		if err == nil {
			want++
		} else {
			isError(t, err, bus.ErrClosed)
		}
		if unsent.Messages != want {
			t.Errorf("%d are unsent, want %d", unsent.Messages, want)
		}
	})
}

// unconfirmed is how many messages a small PublishAsync sends without hearing from
// the server.
const unconfirmed = 100

// stalledBus returns a bus whose asynchronous publisher waits for a flush that
// the server does not answer. It has sent unconfirmed messages of one byte.
func stalledBus(t *testing.T, a bus.AsyncBuffer) (*bus.Bus, *fakeServer) {
	t.Helper()
	server := newFakeServer(t)
	b, err := bus.Connect(t.Context(), server.url(), bus.WithLogger(silent()), bus.WithAsyncBuffer(a))
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	for i := range int64(unconfirmed) {
		must(t, bus.PublishAsync(t.Context(), b, "stalls", 0))
		eventually(t, "it is sent", func() bool { return b.Stats().Published == i+1 })
	}
	server.expect("PING")
	return b, server
}

// In an idle bus nothing keeps a message in the buffer: it goes out at once.
func TestPublishAsyncDoesNotLinger(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		h, got := collect[int](1)
		_, err := bus.Subscribe(b, "a", h)
		must(t, err)
		began := time.Now()
		must(t, bus.PublishAsync(t.Context(), b, "a", 1))
		synctest.Wait()
		if len(got) != 1 || time.Since(began) != 0 {
			t.Errorf("%d came after %v, want 1 at once", len(got), time.Since(began))
		}
	})
}

// Close sends what the buffer holds.
func TestCloseFlushesPublishAsync(t *testing.T) {
	t.Parallel()
	server := bustest.New(t, anyPort())
	h, got := collect[int](5000)
	_, err := bus.Subscribe(server, "a", h)
	must(t, err)
	b := connectTo(t, server)
	for i := range 4000 {
		must(t, bus.PublishAsync(t.Context(), b, "a", i))
	}
	must(t, b.Close())
	for i := range 4000 {
		if v := receive(t, got); v != i {
			t.Fatalf("got %d, want %d", v, i)
		}
	}
	isError(t, bus.PublishAsync(t.Context(), b, "a", 1), bus.ErrClosed)
}

// What is in the buffer when the bus closes still reaches its own subscribers.
func TestCloseHandlesItsOwnPublishAsync(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, got := collect[int](5000)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	for i := range 4000 {
		must(t, bus.PublishAsync(t.Context(), b, "a", i))
	}
	must(t, b.Close())
	if len(got) != 4000 {
		t.Errorf("%d of 4000 messages were handled", len(got))
	}
}

// Flush covers what is in the buffer.
func TestFlushSendsPublishAsync(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	must(t, b.Flush(t.Context()))
	for i := range 1000 {
		must(t, bus.PublishAsync(t.Context(), b, "a", i))
		if i%100 != 0 {
			continue
		}
		must(t, b.Flush(t.Context()))
		if s := b.Stats(); s.Published != int64(i+1) || s.AsyncPending != 0 {
			t.Fatalf("after %d messages the statistics are %+v", i+1, s)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	isError(t, b.Flush(ctx), context.Canceled)
}

// A message that the connection refuses is an event, and Close says how many.
func TestPublishAsyncReportsWhatItCannotSend(t *testing.T) {
	t.Parallel()
	server := bustest.New(t, anyPort())
	record, events := recordEvents()
	b := connectTo(t, server, record)
	b.Conn().Close()
	nextEvent(t, events, event.Disconnected)
	nextEvent(t, events, event.ConnectionClosed)
	for range 3 {
		must(t, bus.PublishAsync(t.Context(), b, "a.b", 1))
	}
	for range 3 {
		e := nextEvent(t, events, event.PublishFailed)
		if e.Subject != "a.b" {
			t.Errorf("the event is about %q", e.Subject)
		}
		isError(t, e.Err, bus.ErrClosed)
	}
	err := b.Close()
	if unsent := asError[*bus.UnsentError](t, err, "3 messages"); unsent.Messages != 3 {
		t.Errorf("%d unsent, want 3", unsent.Messages)
	}
	if n := b.Stats().PublishFailed; n != 3 {
		t.Errorf("PublishFailed is %d, want 3", n)
	}
}

func TestPublishAsyncFromManyGoroutines(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithAsyncBuffer(bus.AsyncBuffer{Size: 16}))
	const writers, each = 8, 200
	next := map[int]int{}
	done := make(chan struct{})
	total := 0
	_, err := bus.Subscribe(b, "a.*", func(_ context.Context, m *bus.Msg[[2]int]) error {
		if who, i := m.Data[0], m.Data[1]; next[who] != i {
			t.Errorf("writer %d: got %d, want %d", who, i, next[who])
		}
		next[m.Data[0]]++
		if total++; total == writers*each {
			close(done)
		}
		return nil
	})
	must(t, err)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := bus.PublishAsync(t.Context(), b, bus.Subject[[2]int]("a.*").At(strconv.Itoa(w)), [2]int{w, i}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	receive(t, done)
}

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

// A cancelled context sends nothing, and says how it ended even where its
// cause is somebody's own error.
func TestPublishWithAnEndedContext(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	must(t, err)
	own := errors.New("own cause")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	caused, cancelCause := context.WithCancelCause(t.Context())
	cancelCause(own)
	late, cancelLate := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancelLate()
	lateCaused, cancelLateCause := context.WithDeadlineCause(t.Context(), time.Unix(0, 0), own)
	defer cancelLateCause()
	contexts := []struct {
		name string
		ctx  context.Context
		want []error
	}{
		{"cancelled", cancelled, []error{context.Canceled}},
		{"cancelled with a cause", caused, []error{context.Canceled, own}},
		{"late", late, []error{bus.ErrTimeout, context.DeadlineExceeded}},
		{"late with a cause", lateCaused, []error{bus.ErrTimeout, context.DeadlineExceeded, own}},
	}
	calls := map[string]func(context.Context) error{
		"Publish":      func(ctx context.Context) error { return bus.Publish(ctx, b, "a", 1) },
		"PublishBatch": func(ctx context.Context) error { return bus.PublishBatch(ctx, b, "a", []int{1}) },
		"PublishAsync": func(ctx context.Context) error { return bus.PublishAsync(ctx, b, "a", 1) },
		"Request":      func(ctx context.Context) error { _, err := bus.Request[int](ctx, b, "a", 1); return err },
		"PublishTo":    func(ctx context.Context) error { _, err := bus.PublishTo(ctx, st, "s", 1); return err },
		"Stream":       func(ctx context.Context) error { _, err := b.Stream(ctx, bus.StreamConfig{Name: "T"}); return err },
		"LookupStream": func(ctx context.Context) error { _, err := b.LookupStream(ctx, "S"); return err },
		"Consume": func(ctx context.Context) error {
			_, err := bus.Consume(ctx, st, "c", "s", func(context.Context, *bus.Msg[int]) error { return nil })
			return err
		},
	}
	for _, c := range contexts {
		for name, call := range calls {
			err := call(c.ctx)
			for _, want := range c.want {
				if !errors.Is(err, want) {
					t.Errorf("%s, %s: got %v, want %v", name, c.name, err, want)
				}
			}
		}
	}
	if n := b.Stats().Published; n != 0 {
		t.Errorf("%d were published", n)
	}
}

// What does not fit into the buffer of a broken connection is refused.
func TestPublishWhileDisconnected(t *testing.T) {
	t.Parallel()
	b := cutOff(t)
	payload := make([]byte, 512<<10)
	var err error
	for range 64 {
		if err = bus.Publish(t.Context(), b, "a", payload); err != nil {
			break
		}
	}
	isError(t, err, bus.ErrDisconnected)
	if n := b.Stats().PublishFailed; n != 1 {
		t.Errorf("PublishFailed is %d, want 1", n)
	}
	// What was accepted is lost now, and Close says so.
	isError(t, b.Close(), bus.ErrDisconnected)
}

// cutOff returns a bus whose server has gone.
func cutOff(t *testing.T, opts ...bus.ConnectOption) *bus.Bus {
	t.Helper()
	server := bustest.New(t, anyPort())
	record, events := recordEvents()
	b := connectTo(t, server, append(opts, record)...)
	must(t, server.Close())
	nextEvent(t, events, event.Disconnected)
	return b
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
