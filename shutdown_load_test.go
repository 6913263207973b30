package bus_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
)

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
	// The responder ends first, and a reply may come when the connection has gone.
	ends := []error{bus.ErrClosed, bus.ErrNoResponders, bus.ErrUnknownOutcome}
	l.repeatUntil(ends, func(n int) error { _, err := bus.Request(ctx, b, asks, ping{N: n}); return err })
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

// repeat calls f until it fails, which it may with ErrClosed.
func (l *load) repeat(f func(n int) error) { l.repeatUntil([]error{bus.ErrClosed}, f) }

// repeatUntil calls f until it fails, which it may with one of ends.
func (l *load) repeatUntil(ends []error, f func(n int) error) {
	l.wg.Go(func() {
		for n := 0; ; n++ {
			if err := f(n); err != nil {
				l.errs <- unless(err, ends)
				return
			}
		}
	})
}

// unless returns err, or nil where it is one of ends.
func unless(err error, ends []error) error {
	if slices.ContainsFunc(ends, func(end error) bool { return errors.Is(err, end) }) {
		return nil
	}
	return err
}

// end waits for the end of all uses, which must be one that is due.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.wg.Wait()
	close(l.errs)
	for err := range l.errs {
		if err != nil {
			t.Errorf("a call ended with: %v", err)
		}
	}
}

// takesNothing is the URL of a server that lets a client in and then reads nothing
// any more.
func takesNothing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			_, _ = io.WriteString(c, `INFO {"server_id":"S","server_name":"stuck","proto":1,"headers":true,"max_payload":1048576}`+"\r\n")
			for in := bufio.NewScanner(c); in.Scan(); {
				if in.Text() == "PING" {
					_, _ = io.WriteString(c, "PONG\r\n")
					break
				}
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return "nats://" + l.Addr().String()
}

// TestShutdownOfAPeerThatTakesNothing has a context of half a second end a bus
// whose publishers wait for a connection that takes nothing.
func TestShutdownOfAPeerThatTakesNothing(t *testing.T) {
	t.Parallel()
	for name, publish := range map[string]func(*bus.Bus, []byte) error{
		"Publish":      func(b *bus.Bus, v []byte) error { return bus.Publish(context.Background(), b, "a", v) },
		"PublishAsync": func(b *bus.Bus, v []byte) error { return bus.PublishAsync(context.Background(), b, "a", v) },
	} {
		for _, way := range []string{"the time is up", "it is cancelled"} {
			t.Run(name+", "+way, func(t *testing.T) {
				t.Parallel()
				b, err := bus.Connect(t.Context(), takesNothing(t), bus.WithLogger(silent()), bus.WithTimeout(time.Hour),
					bus.WithAsyncBuffer(bus.AsyncBuffer{Size: 10}))
				must(t, err)
				ended := make(chan error, 1)
				var accepted atomic.Int64
				go func() {
					for {
						if err := publish(b, make([]byte, 100_000)); err != nil {
							ended <- err
							return
						}
						accepted.Add(1)
					}
				}()
				last := int64(-1)
				eventually(t, "the publisher waits", func() bool {
					n := accepted.Load()
					same := n > 0 && n == last && sameFor(&accepted, 100)
					last = n
					return same
				})
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				if way == "it is cancelled" {
					ctx, cancel = context.WithCancel(t.Context())
					cancel()
				}
				began := time.Now()
				err = b.Shutdown(ctx)
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("Shutdown took %v, its context had half a second", took)
				}
				if err == nil {
					t.Error("Shutdown says that everything was sent")
				}
				if name == "PublishAsync" {
					asError[*bus.UnsentError](t, err)
				}
				wait(t, ended, "the publisher")
				wait(t, b.Done(), "the end of the bus")
			})
		}
	}
}

// sameFor reports whether n stays what it is for so many milliseconds.
func sameFor(n *atomic.Int64, ms int) bool {
	before := n.Load()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range ms {
		<-tick.C
	}
	return n.Load() == before
}
