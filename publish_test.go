package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"testing"
	"time"

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
