package bus_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

const (
	works bus.Subject[ping]        = "stress.work"
	asks  bus.Endpoint[ping, ping] = "stress.ask"
)

// receivers are the ways in which a handler can come to run. Each starts one
// that calls work for each message, and returns how to send it one and how to
// end it.
var receivers = map[string]func(t *testing.T, b *bus.Bus, work func(context.Context)) receiver{
	"a handler on the connection's goroutine": subscribed(),
	"one of four workers":                     subscribed(bus.Concurrency(4)),
	"a responder":                             responding,
	"a consumer":                              consuming,
}

type receiver struct {
	send func() error
	end  func(context.Context) error
	done <-chan struct{}
}

func subscribed(opts ...bus.SubscribeOption) func(*testing.T, *bus.Bus, func(context.Context)) receiver {
	return func(t *testing.T, b *bus.Bus, work func(context.Context)) receiver {
		t.Helper()
		sub, err := bus.Subscribe(b, works, func(ctx context.Context, _ *bus.Msg[ping]) error {
			work(ctx)
			return nil
		}, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return receiver{func() error { return bus.Publish(t.Context(), b, works, ping{}) }, sub.Drain, sub.Done()}
	}
}

func responding(t *testing.T, b *bus.Bus, work func(context.Context)) receiver {
	t.Helper()
	sub, err := bus.Respond(b, asks, func(ctx context.Context, m *bus.Msg[ping]) (ping, error) {
		work(ctx)
		return m.Data, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return receiver{func() error { return bus.Publish(t.Context(), b, bus.Subject[ping](asks), ping{}) }, sub.Drain, sub.Done()}
}

func consuming(t *testing.T, b *bus.Bus, work func(context.Context)) receiver {
	t.Helper()
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "WORK", Subjects: bus.Subjects(works)})
	if err != nil {
		t.Fatal(err)
	}
	con, err := bus.Consume(t.Context(), st, "worker", works, func(ctx context.Context, _ *bus.Msg[ping]) error {
		work(ctx)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	send := func() error { _, err := bus.PublishTo(t.Context(), st, works, ping{}); return err }
	return receiver{send, con.Drain, con.Done()}
}

// ways are the calls that end what a handler belongs to, from within it.
var ways = map[string]func(*bus.Bus, receiver) error{
	"closes the bus":           func(b *bus.Bus, _ receiver) error { return b.Close() },
	"closes the bus twice":     func(b *bus.Bus, _ receiver) error { return errors.Join(b.Close(), b.Close()) },
	"ends its own":             func(_ *bus.Bus, r receiver) error { return r.end(context.Background()) },
	"ends its own, then all":   func(b *bus.Bus, r receiver) error { return errors.Join(r.end(context.Background()), b.Close()) },
	"closes all, then its own": func(b *bus.Bus, r receiver) error { return errors.Join(b.Close(), r.end(context.Background())) },
}

// TestHandlerEndsWhatItBelongsTo would hang if an end waited for the handler
// that asked for it.
func TestHandlerEndsWhatItBelongsTo(t *testing.T) {
	t.Parallel()
	for name, start := range receivers {
		for way, end := range ways {
			t.Run(name+" "+way, func(t *testing.T) {
				t.Parallel()
				b := bustest.New(t)
				var r receiver
				ready, ended := make(chan struct{}), make(chan error, 1)
				r = start(t, b, func(context.Context) {
					<-ready
					ended <- end(b, r)
				})
				close(ready)
				if err := r.send(); err != nil {
					t.Fatal(err)
				}
				if err := wait(t, ended, "the end from within the handler"); err != nil {
					t.Error(err)
				}
				wait(t, r.done, "the end of what the handler belongs to")
			})
		}
	}
}

// TestHandlerAndOthersEndAtOnce has a handler end what it belongs to while the
// bus is being closed from outside, which waits for that handler.
func TestHandlerAndOthersEndAtOnce(t *testing.T) {
	t.Parallel()
	for name, start := range receivers {
		for way, end := range ways {
			t.Run(name+" "+way, func(t *testing.T) {
				t.Parallel()
				b := bustest.New(t)
				var r receiver
				running := make(chan struct{})
				ready, ended, closed := make(chan struct{}), make(chan error, 1), make(chan error, 1)
				r = start(t, b, func(ctx context.Context) {
					<-ready
					close(running)
					<-bus.Stopping(ctx)
					ended <- end(b, r)
				})
				close(ready)
				if err := r.send(); err != nil {
					t.Fatal(err)
				}
				wait(t, running, "the handler")
				go func() { closed <- b.Close() }()
				if err := wait(t, ended, "the end from within the handler"); err != nil {
					t.Error(err)
				}
				if err := wait(t, closed, "the end from outside"); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestManyClose has several goroutines end one bus: one does it, the others wait
// for it and get the same answer.
func TestManyClose(t *testing.T) {
	t.Parallel()
	b, err := quietBus()
	if err != nil {
		t.Fatal(err)
	}
	release, started := make(chan struct{}), make(chan struct{})
	_, err = bus.Subscribe(b, works, func(context.Context, *bus.Msg[ping]) error {
		close(started)
		<-release
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Publish(t.Context(), b, works, ping{}); err != nil {
		t.Fatal(err)
	}
	wait(t, started, "the handler")
	ended := make(chan error, 16)
	for i := range cap(ended) {
		go func() {
			if i%2 == 0 {
				ended <- b.Close()
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), stuck)
			defer cancel()
			ended <- b.Shutdown(ctx)
		}()
	}
	select {
	case err := <-ended:
		t.Errorf("Close returned %v while a handler runs", err)
	case <-b.Done():
		t.Error("Done is closed while a handler runs")
	default:
	}
	close(release)
	for range cap(ended) {
		if err := wait(t, ended, "Close"); err != nil {
			t.Error(err)
		}
	}
	wait(t, b.Done(), "Done")
	if err := b.Close(); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// TestImpatientClose has a second Shutdown give up waiting for the first one.
func TestImpatientClose(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	stopping, release := make(chan struct{}), make(chan struct{})
	_, err := bus.Subscribe(b, works, func(ctx context.Context, _ *bus.Msg[ping]) error {
		<-bus.Stopping(ctx)
		close(stopping)
		<-release
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Publish(t.Context(), b, works, ping{}); err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	go func() { first <- b.Close() }()
	wait(t, stopping, "the handler")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := b.Shutdown(ctx); !errors.Is(err, bus.ErrTimeout) {
		t.Errorf("with a short timeout: %v", err)
	}
	close(release)
	if err := wait(t, first, "the first Close"); err != nil {
		t.Error(err)
	}
}

// TestCloseWhileDiscovered closes a bus while others ask what services it has.
func TestCloseWhileDiscovered(t *testing.T) {
	t.Parallel()
	for range 3 {
		b := bustest.New(t) // its drain timeout would end what hangs, and fail the test
		_, err := bus.Respond(b, asks, func(_ context.Context, m *bus.Msg[ping]) (ping, error) { return m.Data, nil })
		if err != nil {
			t.Fatal(err)
		}
		stop := flood(t, b, "$SRV.INFO", "$SRV.STATS", "$SRV.PING")
		err = b.Close()
		stop()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// flood publishes to subjs, wanting replies that nobody reads, until it is
// stopped or the connection closes.
func flood(t *testing.T, b *bus.Bus, subjs ...string) (stop func()) {
	t.Helper()
	first, ended := make(chan struct{}), make(chan struct{})
	var stopped atomic.Bool
	go func() {
		defer close(ended)
		for n := 0; !stopped.Load(); n++ {
			for _, s := range subjs {
				if b.Conn().PublishRequest(s, "nobody", nil) != nil {
					return
				}
			}
			if n == 100 {
				close(first)
			}
		}
	}()
	wait(t, first, "the flood")
	return func() {
		stopped.Store(true)
		<-ended
	}
}

// TestShutdownDuringLoad closes a bus on disk while everything is in use. What
// PublishTo accepted must be there for the next bus, and nothing may hang.
func TestShutdownDuringLoad(t *testing.T) {
	t.Parallel()
	opts := []bus.Option{bus.WithStoreDir(t.TempDir()), bus.WithSync(bus.SyncEvery(time.Second))}
	accepted := int64(0)
	for round := range 3 {
		b, err := quietBus(opts...)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		l := startLoad(t, b)
		wait(t, l.enough, "the load")
		if err := b.Close(); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		l.end(t)
		accepted += l.stored.Load()
	}
	b, err := quietBus(opts...)
	if err != nil {
		t.Fatal(err)
	}
	st, err := b.JetStream().Stream(t.Context(), "LOAD")
	if err != nil {
		t.Fatal(err)
	}
	if there := st.CachedInfo().State.Msgs; there < uint64(accepted) {
		t.Errorf("%d messages were accepted, %d are stored", accepted, there)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// load uses a bus in every way at once until that is closed.
type load struct {
	bus    *bus.Bus
	wg     sync.WaitGroup
	stored atomic.Int64  // messages that PublishTo accepted
	enough chan struct{} // closed when there are some
	errs   chan error    // how each use ended
}

func startLoad(t *testing.T, b *bus.Bus) *load {
	t.Helper()
	l := &load{bus: b, enough: make(chan struct{}), errs: make(chan error, 100)}
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "LOAD", Subjects: []string{"load.>"}})
	if err != nil {
		t.Fatal(err)
	}
	l.receive(t, st)
	ctx := context.Background()
	for range 4 {
		l.repeat(func(n int) error {
			_, err := bus.PublishTo(ctx, st, "load.a", ping{N: n})
			if err == nil && l.stored.Add(1) == 200 {
				close(l.enough)
			}
			return err
		})
	}
	// Without Flush these would keep ahead of their own handlers for ever.
	l.repeat(func(n int) error { return errors.Join(bus.Publish(ctx, b, works, ping{N: n}), b.Flush(ctx)) })
	l.repeat(func(n int) error { return errors.Join(bus.PublishAsync(ctx, b, works, ping{N: n}), b.Flush(ctx)) })
	l.repeat(func(n int) error { _, err := bus.Request(ctx, b, asks, ping{N: n}); return err })
	return l
}

func (l *load) receive(t *testing.T, st *bus.Stream) {
	t.Helper()
	handle := func(context.Context, *bus.Msg[ping]) error { return nil }
	_, consumed := bus.Consume(t.Context(), st, "reader", "load.>", handle, bus.Concurrency(4))
	_, inline := bus.Subscribe(l.bus, works, handle)
	_, pooled := bus.Subscribe(l.bus, works, handle, bus.Concurrency(4))
	_, responding := bus.Respond(l.bus, asks, func(_ context.Context, m *bus.Msg[ping]) (ping, error) { return m.Data, nil })
	if err := errors.Join(consumed, inline, pooled, responding); err != nil {
		t.Fatal(err)
	}
	l.repeat(func(int) error {
		sub, err := bus.Subscribe(l.bus, works, handle)
		if err == nil {
			err = sub.Drain(context.Background())
		}
		return err
	})
}

// repeat calls f until it fails.
func (l *load) repeat(f func(n int) error) {
	l.wg.Go(func() {
		for n := 0; ; n++ {
			if err := f(n); err != nil {
				l.errs <- err
				return
			}
		}
	})
}

// end waits for the end of all uses, which must be that the bus was closed, or
// that its responders were.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.wg.Wait()
	close(l.errs)
	for err := range l.errs {
		if !errors.Is(err, bus.ErrClosed) && !errors.Is(err, bus.ErrNoResponders) {
			t.Errorf("a call ended with: %v", err)
		}
	}
}
