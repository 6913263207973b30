package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// When a durable or its stream is deleted on the server, its consumers end and
// say why.
func TestConsumerThatIsDeleted(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		remove func(context.Context, *bus.Bus) error
	}{
		{"the durable", func(ctx context.Context, b *bus.Bus) error { return b.JetStream().DeleteConsumer(ctx, "S", "c") }},
		{"the stream", func(ctx context.Context, b *bus.Bus) error { return b.JetStream().DeleteStream(ctx, "S") }},
	} {
		for _, busy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, busy=%t", tc.name, busy), func(t *testing.T) {
				t.Parallel()
				record, events := recordEvents()
				bustest.Run(t, func(t *testing.T, b *bus.Bus) {
					st := declare(t, b, bus.StreamConfig{Name: "S"})
					var got ledger
					con := consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
						if busy {
							time.Sleep(time.Second)
						}
						got.note(m.Sequence)
						return nil
					})
					storeRange(t, st, "S", 0, 600) // more than it asks for at once
					synctest.Wait()
					must(t, con.Err())
					nothing(t, con.Done())
					must(t, tc.remove(t.Context(), b))
					pass(5 * time.Minute) // who is busy sees it when it asks for more
					receive(t, con.Done())
					e := asError[*bus.StreamError](t, con.Err(), `"S"`, "consume as c", "deleted on the server")
					if e.Stream != "S" {
						t.Errorf("got %+v", e)
					}
					for e := nextEvent(t, events, event.ConsumerStalled); !strings.Contains(e.Err.Error(), "deleted"); e = nextEvent(t, events, event.ConsumerStalled) {
						if e.Stream != "S" || e.Durable != "c" {
							t.Errorf("the event is %+v", e)
						}
					}
					if n := len(b.Stats().Subscriptions); n != 0 {
						t.Errorf("%d consumers are listed", n)
					}
					must(t, con.Drain(t.Context()))
					if n := got.distinct(); !busy && n != 600 || busy && n > 150 {
						t.Errorf("%d messages were handled", n)
					}
				}, record, bus.WithLogger(silent()))
			})
		}
	}
}

// The connection may drop at any moment: each message is handled, and again only
// where its acknowledgement may have been lost. In real time, because nats.go
// cannot reconnect in a bubble.
func TestConsumeThroughReconnects(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 8} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			b := bustest.New(t, record, bus.WithLogger(silent()))
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			const n, drops = 2000, 10
			var got ledger
			var handled atomic.Int64
			drop := make(chan struct{}, drops)
			con := consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
				got.note(m.Sequence)
				if k := handled.Add(1); k%(n/drops) == 0 && k/(n/drops) <= drops {
					drop <- struct{}{}
				}
				return nil
			}, bus.Concurrency(concurrency), bus.AckWait(time.Second))
			var publisher sync.WaitGroup
			publisher.Go(func() {
				for i := range n {
					if _, err := bus.PublishTo(t.Context(), st, "S", i, bus.MsgID(fmt.Sprint(i))); err != nil {
						t.Error(err)
						return
					}
				}
			})
			for range drops {
				receive(t, drop)
				must(t, b.Conn().ForceReconnect())
				awaitEvent(t, events, event.Disconnected)
				awaitEvent(t, events, event.Reconnected)
			}
			publisher.Wait()
			eventually(t, "all are handled and acknowledged", func() bool {
				i := consumerInfo(t, b, "S", "c")
				return got.distinct() == n && i.NumAckPending == 0 && i.NumPending == 0
			})
			must(t, con.Drain(t.Context()))
			mustHold(t, b, "S", 1, n)
			if again := len(got.sequences()) - n; again > drops*concurrency {
				t.Errorf("%d messages were handled again, more than ran when the connection dropped", again)
			}
		})
	}
}

// A server that goes away and comes back goes on with its consumers.
func TestConsumeWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	b, home, r, events := remote(t)
	at := declare(t, home, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	var got ledger
	consume(t, st, "c", "S", got.handle, bus.AckWait(time.Second))
	for round := range 3 {
		storeRange(t, at, "S", 200*round, 200*round+100)
		eventually(t, "the first half is handled", func() bool { return got.distinct() == 200*round+100 })
		r.cut(true)
		awaitEvent(t, events, event.Disconnected)
		storeRange(t, at, "S", 200*round+100, 200*round+200)
		r.cut(false)
		awaitEvent(t, events, event.Reconnected)
		eventually(t, "all are handled", func() bool { return got.distinct() == 200*round+200 })
	}
	unacknowledged := func() int { return consumerInfo(t, home, "S", "c").NumAckPending }
	for left := unacknowledged(); left > 0; left = unacknowledged() { // what comes again runs alone, which takes its time
		eventually(t, "one more is acknowledged", func() bool { return unacknowledged() < left })
	}
}

// A bus that ends waits for its handlers, keeps what they did, and gives the rest
// back.
func TestShutdownWhileConsumersRun(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, home *bus.Bus) {
		dir := t.TempDir()
		b := ownBus(t, bus.WithStoreDir(dir))
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 100)
		var got ledger
		slow := func(ctx context.Context, m *bus.Msg[int]) error {
			time.Sleep(2 * time.Second)
			if err := ctx.Err(); err != nil {
				t.Error(err)
			}
			got.note(m.Sequence)
			return nil
		}
		con := consume(t, st, "c", "S", slow, bus.Concurrency(5), bus.AckWait(time.Hour))
		pass(time.Second)
		began := time.Now()
		must(t, b.Close())
		if took := time.Since(began); took < time.Second || took > 1100*time.Millisecond { // the server takes some, too
			t.Errorf("Close took %v, the handlers needed 1s", took)
		}
		receive(t, con.Done())
		must(t, con.Err())
		must(t, con.Drain(t.Context()))
		got.mustBeOnce(t, 5)

		b = ownBus(t, bus.WithStoreDir(dir))
		st, err := b.LookupStream(t.Context(), "S")
		must(t, err)
		consume(t, st, "c", "S", got.handle)
		pass(61 * time.Minute)
		got.mustBeOnce(t, 100) // the five not again
		must(t, b.Close())
	}, bus.WithLogger(silent()))
}

// What a bus gives back at its end need not wait for AckWait either: the next one
// on the directory gets it soon.
func TestConsumeGetsAfterARestartWhatWasGivenBack(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
		dir := t.TempDir()
		var got ledger
		b := ownBus(t, bus.WithStoreDir(dir))
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 100)
		release := make(chan struct{})
		consume(t, st, "c", "S", func(ctx context.Context, m *bus.Msg[int]) error {
			<-release
			return got.handle(ctx, m)
		}, bus.AckWait(time.Hour))
		synctest.Wait()
		time.AfterFunc(time.Second, func() { close(release) })
		must(t, b.Close())
		got.mustBeOnce(t, 1)

		b = ownBus(t, bus.WithStoreDir(dir))
		st, err := b.LookupStream(t.Context(), "S")
		must(t, err)
		consume(t, st, "c", "S", got.handle)
		pass(5 * time.Second)
		got.mustBeOnce(t, 100)
		must(t, b.Close())
	})
}

// A bus that cannot wait for a handler says so, and the message comes again.
func TestShutdownThatRunsOutOfTimeWhileConsumersRun(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
		dir := t.TempDir()
		b := ownBus(t, bus.WithStoreDir(dir))
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 10)
		causes := make(chan error, 10)
		consume(t, st, "c", "S", func(ctx context.Context, m *bus.Msg[int]) error {
			if m.Sequence > 3 {
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return errors.New("given up")
			}
			return nil
		}, bus.Concurrency(2), bus.AckWait(2*time.Second))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d := asError[*bus.DrainError](t, b.Shutdown(ctx), "2 handlers running")
		if d.Running != 2 {
			t.Errorf("got %+v", d)
		}
		for range 2 {
			hasText(t, <-causes, "drain timeout")
		}
		b = ownBus(t, bus.WithStoreDir(dir))
		st, err := b.LookupStream(t.Context(), "S")
		must(t, err)
		var got ledger
		consume(t, st, "c", "S", got.handle)
		pass(time.Minute)
		slices.Sort(got.order)
		if !slices.Equal(got.order, upTo(10)[3:]) {
			t.Errorf("then %v were handled, want 4 to 10", got.order)
		}
		must(t, b.Close())
	})
}

// Opened again and again, a durable goes on where it was.
func TestConsumeGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
		dir := t.TempDir()
		var got ledger
		for round := range 6 {
			b := ownBus(t, bus.WithStoreDir(dir))
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			storeRange(t, st, "S", 100*round, 100*round+60)
			consume(t, st, "c", "S", got.handle, bus.Concurrency(1+round%3))
			storeRange(t, st, "S", 100*round+60, 100*round+100)
			if round%2 == 0 { // else Close has something to wait for
				pass(time.Minute)
				got.mustBeOnce(t, 100*round+100)
			}
			must(t, b.Close())
		}
		b := ownBus(t, bus.WithStoreDir(dir))
		st, err := b.LookupStream(t.Context(), "S")
		must(t, err)
		consume(t, st, "c", "S", got.handle)
		pass(2 * time.Minute)
		got.mustBeOnce(t, 600)
		must(t, b.Close())
	})
}

// A consumer that cannot get messages says so once, and goes on by itself.
func TestConsumerStalls(t *testing.T) {
	t.Parallel()
	b, home, r, events := remote(t)
	declare(t, home, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	var got ledger
	con := consume(t, st, "c", "S", got.handle)
	// The stream goes while the bus is away, so nobody tells it.
	r.cut(true)
	awaitEvent(t, events, event.Disconnected)
	must(t, home.JetStream().DeleteStream(t.Context(), "S"))
	r.cut(false)
	awaitEvent(t, events, event.Reconnected)
	e := awaitEvent(t, events, event.ConsumerStalled)
	if e.Stream != "S" || e.Durable != "c" || e.Err == nil {
		t.Errorf("the event is %+v", e)
	}
	receive(t, con.Done())
	asError[*bus.StreamError](t, con.Err(), "deleted on the server")
}
