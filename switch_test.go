package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/switchover"
)

func TestSwitchTo(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	target := testserver.New(t, testserver.WithJetStream, testserver.WithPort)
	b, err := bus.New(bus.WithStoreDir(t.TempDir()))
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	st, err := b.Stream(ctx, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	must(t, err)
	for i := range 100 {
		_, err := bus.PublishTo(ctx, st, bus.Subject[int]("s.a"), i)
		must(t, err)
	}
	got := make(chan int, 1000)
	_, err = bus.Consume(ctx, st, "c", bus.Subject[int]("s.a"), func(_ context.Context, m *bus.Msg[int]) error { got <- m.Data; return nil }, bus.KeyBySubject())
	must(t, err)
	r, err := b.SwitchTo(ctx, target.ClientURL(), switchover.OnProgress(func(p switchover.Progress) { t.Log(p) }))
	t.Log(r, err)
	must(t, err)
	for i := range 100 {
		_, err := bus.PublishTo(ctx, st, bus.Subject[int]("s.a"), 100+i)
		must(t, err)
	}
	for i := range 200 {
		select {
		case n := <-got:
			if n != i {
				t.Fatalf("got %d, want %d", n, i)
			}
		case <-time.After(10 * time.Second):
			t.Fatal(i)
		}
	}
}
