package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/event"
)

// routeTo adds a handler to m that says on which pattern it got what.
func routeTo[T any](m *bus.Mux, pattern bus.Subject[T], got chan<- string) {
	bus.Handle(m, pattern, func(_ context.Context, msg *bus.Msg[T]) error {
		got <- fmt.Sprintf("%s: %s %v", pattern, msg.Subject, msg.Data)
		return nil
	})
}

func TestMuxRoutesToTheMostSpecific(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	got := make(chan string, 100)
	var m bus.Mux
	// The order in which they are added does not count.
	routeTo[string](&m, "shop.>", got)
	routeTo[int](&m, "shop.*.paid", got)
	routeTo[order](&m, "shop.orders.placed", got)
	routeTo[[]byte](&m, "shop.orders.*", got)
	routeTo[bool](&m, "shop.*.*", got)
	_, err := b.Subscribe("shop.>", &m)
	must(t, err)
	for _, tc := range []struct{ subject, payload, want string }{
		{"shop.orders.placed", `{"id":"a"}`, "shop.orders.placed: shop.orders.placed {a 0 map[]}"},
		{"shop.orders.paid", `1`, "shop.orders.*: shop.orders.paid [49]"},
		{"shop.bills.paid", `7`, "shop.*.paid: shop.bills.paid 7"},
		{"shop.bills.placed", `true`, "shop.*.*: shop.bills.placed true"},
		{"shop.x", `"deep"`, "shop.>: shop.x deep"},
		{"shop.a.b.c.d", `"deep"`, "shop.>: shop.a.b.c.d deep"},
	} {
		must(t, b.Conn().Publish(tc.subject, []byte(tc.payload)))
		if v := receive(t, got); v != tc.want {
			t.Errorf("got %q, want %q", v, tc.want)
		}
	}
}

// Messages of different types keep their order.
func TestMuxKeepsOrder(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	got := make(chan string, 3000)
	var m bus.Mux
	routeTo[int](&m, "a.int", got)
	routeTo[string](&m, "a.text", got)
	routeTo[order](&m, "a.order", got)
	_, err := b.Subscribe("a.*", &m)
	must(t, err)
	for i := range 1000 {
		must(t, bus.Publish(t.Context(), b, "a.int", i))
		must(t, bus.Publish(t.Context(), b, "a.text", strconv.Itoa(i)))
		must(t, bus.Publish(t.Context(), b, "a.order", order{ID: strconv.Itoa(i)}))
	}
	for i := range 1000 {
		for _, want := range []string{fmt.Sprintf("a.int: a.int %d", i), fmt.Sprintf("a.text: a.text %d", i), fmt.Sprintf("a.order: a.order {%d 0 map[]}", i)} {
			if v := receive(t, got); v != want {
				t.Fatalf("got %q, want %q", v, want)
			}
		}
	}
}

// A message that no handler is for is an event and counted, not lost in silence.
func TestMuxUnrouted(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	got := make(chan string, 10)
	var m bus.Mux
	routeTo[int](&m, "a.int", got)
	sub, err := b.Subscribe("a.>", &m)
	must(t, err)
	publishRange(t, b, "a.other", 0, 2)
	must(t, bus.Publish(t.Context(), b, "a.int", 1))
	receive(t, got)
	for range 2 {
		if e := nextEvent(t, events, event.Unrouted); e.Subject != "a.other" || e.Err == nil {
			t.Errorf("the event is %+v", e)
		}
	}
	must(t, sub.Drain(t.Context()))
	if s := b.Stats(); s.Unrouted != 2 || s.Handled != 1 || s.HandlerErrors != 2 {
		t.Errorf("the statistics are %+v", s)
	}
}

type oldOrder struct {
	Number int `json:"number"`
}

func TestHandleOld(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	got := make(chan *bus.Msg[order], 10)
	handle := func(_ context.Context, m *bus.Msg[order]) error {
		got <- m
		return nil
	}
	up := func(o oldOrder) (order, error) {
		switch {
		case o.Number == 0:
			return order{}, errors.New("no number")
		case o.Number < 0:
			panic("negative")
		}
		return order{ID: strconv.Itoa(o.Number)}, nil
	}
	var m bus.Mux
	bus.Handle(&m, "orders.v2", handle)
	bus.HandleOld(&m, "orders.v1", up, handle)
	_, err := b.Subscribe("orders.*", &m)
	must(t, err)
	for _, n := range []int{7, 0, -1} {
		must(t, bus.Publish(t.Context(), b, "orders.v1", oldOrder{n}, bus.WithHeader("X-A", "b"), bus.MsgID("id")))
	}
	must(t, bus.Publish(t.Context(), b, "orders.v2", order{ID: "new"}))
	if m := receive(t, got); m.Data.ID != "7" || m.Subject != "orders.v1" || m.Header.Get("X-A") != "b" || m.ID != "id" || m.Attempt != 1 {
		t.Errorf("got %+v", m)
	}
	hasText(t, nextEvent(t, events, event.HandlerFailed).Err, "no number")
	asError[*bus.PanicError](t, nextEvent(t, events, event.HandlerFailed).Err, "negative")
	if m := receive(t, got); m.Data.ID != "new" {
		t.Errorf("got %+v", m)
	}
}

func TestMuxOptions(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	got := make(chan string, 10)
	var m bus.Mux
	routeTo[order](&m, "a.*", got)
	seen := make(chan string, 10)
	mw := func(next bus.RawHandler) bus.RawHandler {
		return func(ctx context.Context, m *bus.RawMsg) error {
			seen <- m.Subject
			return next(ctx, m)
		}
	}
	sub, err := b.Subscribe("a.>", &m, bus.As(codec.CBOR), bus.Use(mw), bus.Queue("g"))
	must(t, err)
	data, err := codec.CBOR.Marshal(order{ID: "x"})
	must(t, err)
	must(t, b.Conn().Publish("a.b", data))
	if v := receive(t, got); v != "a.*: a.b {x 0 map[]}" {
		t.Errorf("got %q", v)
	}
	if s := receive(t, seen); s != "a.b" {
		t.Errorf("the middleware saw %q", s)
	}
	if sub.Subject() != "a.>" {
		t.Errorf("the subject is %q", sub.Subject())
	}
	// A later handler counts for later subscriptions.
	routeTo[int](&m, "a.b.c", got)
	_, err = b.Subscribe("a.>", &m)
	must(t, err)
	must(t, bus.Publish(t.Context(), b, "a.b.c", 1))
	if v := receive(t, got); v != "a.b.c: a.b.c 1" {
		t.Errorf("got %q", v)
	}
}

func TestMuxMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	fill := func(patterns ...bus.Subject[int]) *bus.Mux {
		var m bus.Mux
		for _, p := range patterns {
			bus.Handle(&m, p, ignore[int])
		}
		return &m
	}
	subscribe := func(pattern string, m *bus.Mux) error {
		_, err := b.Subscribe(pattern, m)
		return err
	}
	asError[*bus.OptionError](t, subscribe("a", nil), "mux is nil")
	asError[*bus.OptionError](t, subscribe("a", &bus.Mux{}), "no handlers", "bus.Handle")
	asError[*bus.SubjectError](t, subscribe(">", fill("a.*", "a.*")), `"a.*"`, "has a handler for it already")
	asError[*bus.SubjectError](t, subscribe("a.*", fill("a.b", "b.*")), `"b.*"`, "no subject", "a.*")

	// All mistakes are told at once.
	m := fill("a..b", "c d")
	bus.Handle[int](m, "x", nil)
	bus.HandleOld[int, int](m, "y", nil, nil)
	bus.Handle[int](m, "e.", nil)
	err := subscribe(">", m)
	asError[*bus.SubjectError](t, err, `"a..b"`, `"c d"`, `Handle: handler of "x" is nil`, `HandleOld: up or handler of "y" is nil`, `handler of "e." is nil`, `subject "e."`)
	asError[*bus.OptionError](t, err)

	var none *bus.Bus
	_, err = none.Subscribe("a", fill("a"))
	asError[*bus.OptionError](t, err, "bus is nil")
	if n := len(b.Stats().Subscriptions); n != 0 {
		t.Errorf("%d subscriptions were made", n)
	}
}
