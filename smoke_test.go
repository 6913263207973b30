package bus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
)

type order struct{ ID string; N int }

func TestSmoke(t *testing.T) {
	b, err := bus.New()
	if err != nil { t.Fatal(err) }
	ctx := context.Background()
	got := make(chan *bus.Msg[order], 10)
	_, err = bus.Subscribe(b, bus.Subject[order]("a.*"), func(ctx context.Context, m *bus.Msg[order]) error { got <- m; return nil })
	if err != nil { t.Fatal(err) }
	if err := bus.Publish(ctx, b, bus.Subject[order]("a.*").At("x"), order{"1", 2}); err != nil { t.Fatal(err) }
	t.Logf("%+v", <-got)
	if err := bus.PublishAsync(ctx, b, "a.y", order{"1", 3}); err != nil { t.Fatal(err) }
	t.Logf("%+v", <-got)
	_, err = bus.Respond(b, bus.Endpoint[order, string]("q.x"), func(ctx context.Context, m *bus.Msg[order]) (string, error) {
		if m.Data.N == 0 { return "", bus.Public("404", "no such") }
		return m.Data.ID + "!", nil
	})
	if err != nil { t.Fatal(err) }
	s, err := bus.Request[string](ctx, b, "q.x", order{"abc", 1})
	t.Log(s, err)
	s, err = bus.Request[string](ctx, b, "q.x", order{"abc", 0})
	t.Log(s, err)
	_, err = bus.Request[string](ctx, b, "q.y", order{"abc", 0})
	t.Log(err, errors.Is(err, bus.ErrNoResponders))
	st, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: []string{"o.>"}})
	if err != nil { t.Fatal(err) }
	ack, err := bus.PublishTo(ctx, st, "o.1", order{"s", 1}, bus.MsgID("x"))
	t.Log(ack, err)
	ack, err = bus.PublishTo(ctx, st, "o.1", order{"s", 1}, bus.MsgID("x"))
	t.Log(ack, err)
	fails := 2
	c, err := bus.Consume(ctx, st, "d", "o.>", func(ctx context.Context, m *bus.Msg[order]) error {
		got <- m
		if fails > 0 { fails--; return errors.New("boo") }
		return nil
	}, bus.Retry(bus.RetryPolicy{MinBackoff: 10*time.Millisecond}))
	if err != nil { t.Fatal(err) }
	t.Logf("%+v", <-got)
	t.Logf("%+v", <-got)
	t.Logf("%+v", <-got)
	t.Logf("%+v", b.Stats())
	t.Logf("%+v", b.Health(ctx))
	_ = c
	start := time.Now()
	if err := b.Close(); err != nil { t.Fatal(err) }
	t.Log(time.Since(start))
}
