package bus_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
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

// TestCloseFromTheFunctionOfWithEvents has the program's function close the bus
// when PublishAsync has failed: by itself, and while others close it.
func TestCloseFromTheFunctionOfWithEvents(t *testing.T) {
	t.Parallel()
	for _, others := range []bool{false, true} {
		t.Run(fmt.Sprint("others close it: ", others), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
				var b *bus.Bus
				ready, told, again := make(chan struct{}), make(chan error, 1), make(chan error, 1)
				var once sync.Once
				b = ownBus(t, bus.WithDrainTimeout(time.Hour), bus.WithEvents(func(e event.Event) {
					if e.Kind == event.PublishFailed {
						once.Do(func() {
							<-ready
							told <- b.Close()
						})
					}
				}))
				b.Conn().Close()
				must(t, bus.PublishAsync(t.Context(), b, "a", 1))
				must(t, bus.PublishAsync(t.Context(), b, "a", 2))
				synctest.Wait()
				began := time.Now()
				if others {
					go func() { again <- b.Close() }()
					synctest.Wait()
				}
				close(ready)
				err := <-told
				if others {
					must(t, err) // it does not wait for who waits for it
					err = <-again
				}
				if unsent := asError[*bus.UnsentError](t, err); unsent.Messages != 2 {
					t.Errorf("%d are unsent", unsent.Messages)
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// TestCloseWhileAnEventIsTold waits for the program's function, but not for ever.
func TestCloseWhileAnEventIsTold(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
		release := make(chan struct{})
		b := ownBus(t, bus.WithEvents(func(e event.Event) {
			if e.Kind == event.PublishFailed {
				<-release
			}
		}))
		b.Conn().Close()
		must(t, bus.PublishAsync(t.Context(), b, "a", 1))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		asError[*bus.UnsentError](t, b.Shutdown(ctx))
		if took := time.Since(began); took < time.Minute || took > time.Minute+time.Second {
			t.Errorf("it took %v", took)
		}
		close(release)
	})
}

// TestCauseOfTheEndOfAHandlersContext looks at why a handler's context ended.
func TestCauseOfTheEndOfAHandlersContext(t *testing.T) {
	t.Parallel()
	reason := errors.New("no time")
	for name, tc := range map[string]struct {
		end  func(*bus.Bus) error
		want error
		text string
	}{
		"closed in time":    {func(b *bus.Bus) error { return b.Close() }, bus.ErrClosed, ""},
		"the time is up":    {func(b *bus.Bus) error { return shutdown(b, context.WithTimeout, time.Minute) }, nil, "drain timeout is used up"},
		"the time was past": {func(b *bus.Bus) error { return shutdown(b, context.WithTimeout, -time.Minute) }, nil, "drain timeout is used up"},
		"cancelled": {func(b *bus.Bus) error {
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(time.Second, func() { cancel(reason) })
			return b.Shutdown(ctx)
		}, reason, "Shutdown waits no longer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
				b := ownBus(t)
				cause := make(chan error, 1)
				_, err := bus.Subscribe(b, works, func(ctx context.Context, _ *bus.Msg[ping]) error {
					if tc.want == bus.ErrClosed {
						must(t, tc.end(b)) // from here, so that the context can end before the handler
					}
					<-ctx.Done()
					cause <- context.Cause(ctx)
					return nil
				})
				must(t, err)
				must(t, bus.Publish(t.Context(), b, works, ping{}))
				synctest.Wait()
				switch name {
				case "closed in time":
				case "the time was past", "cancelled":
					if err := tc.end(b); err != nil { // the handler may return before it is looked for
						asError[*bus.DrainError](t, err, "1 handlers running")
					}
				default:
					err := tc.end(b)
					asError[*bus.DrainError](t, err, "1 handlers running")
					isError(t, err, bus.ErrTimeout)
				}
				got := <-cause
				if tc.want != nil && !errors.Is(got, tc.want) {
					t.Errorf("got %v, want %v", got, tc.want)
				}
				hasText(t, got, tc.text)
			})
		})
	}
}

func shutdown(b *bus.Bus, with func(context.Context, time.Duration) (context.Context, context.CancelFunc), d time.Duration) error {
	ctx, cancel := with(context.Background(), d)
	defer cancel()
	return b.Shutdown(ctx)
}

// TestHandlersMayPublishWhenTheirContextEnds has handlers publish when they are
// told to end: that must arrive.
func TestHandlersMayPublishWhenTheirContextEnds(t *testing.T) {
	t.Parallel()
	for name, start := range receivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := ownBus(t, anyPort())
			var arrived atomic.Int64
			nc := rawClient(t, b)
			_, err := nc.Subscribe("out", func(*nats.Msg) { arrived.Add(1) })
			must(t, err)
			must(t, nc.FlushWithContext(deadline(t)))
			const n = 100
			running, errs := make(chan struct{}), make(chan error, 1)
			r := start(t, b, func(ctx context.Context) {
				close(running)
				<-ctx.Done()
				ctx = context.WithoutCancel(ctx)
				var all []error
				for i := range n {
					all = append(all, bus.PublishAsync(ctx, b, "out", i), bus.Publish(ctx, b, "out", i))
				}
				errs <- errors.Join(all...)
			})
			must(t, r.send())
			wait(t, running, "the handler")
			err = shutdown(b, context.WithTimeout, 2*time.Second)
			asError[*bus.DrainError](t, err, "1 handlers running")
			if _, unsent := errors.AsType[*bus.UnsentError](err); unsent {
				t.Error(err)
			}
			must(t, wait(t, errs, "the handler"))
			eventually(t, "all arrived", func() bool { return arrived.Load() == 2*n })
		})
	}
}

// TestStuckHandlerCostsNoPublishedMessage has a handler use up the time of
// Shutdown while others publish: what cannot be sent in the rest of it is counted.
func TestStuckHandlerCostsNoPublishedMessage(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"the time is up", "it is cancelled"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			b := ownBus(t, anyPort())
			var arrived, accepted atomic.Int64
			nc := rawClient(t, b)
			sub, err := nc.Subscribe("out", func(*nats.Msg) { arrived.Add(1) })
			must(t, err)
			must(t, sub.SetPendingLimits(-1, -1))
			must(t, nc.FlushWithContext(deadline(t)))
			running, release, published := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			r := subscribed()(t, b, func(context.Context) {
				close(running)
				<-release
			})
			must(t, r.send())
			wait(t, running, "the handler")
			go func() {
				for {
					if err := bus.PublishAsync(context.Background(), b, "out", 1); err != nil {
						published <- err
						return
					}
					accepted.Add(1)
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if way == "it is cancelled" {
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(100*time.Millisecond, cancel)
			}
			err = b.Shutdown(ctx)
			asError[*bus.DrainError](t, err, "1 handlers running")
			isError(t, wait(t, published, "the publisher"), bus.ErrClosed)
			lost := 0
			if unsent, ok := errors.AsType[*bus.UnsentError](err); ok {
				lost = unsent.Messages
			}
			eventually(t, "all that is not said to be lost arrived", func() bool { return arrived.Load() >= accepted.Load()-int64(lost) })
			close(release)
		})
	}
}

// TestShutdownIsCancelled ends at once, whatever runs.
func TestShutdownIsCancelled(t *testing.T) {
	t.Parallel()
	for name, start := range receivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
				b := ownBus(t)
				release := make(chan struct{})
				r := start(t, b, func(context.Context) { <-release })
				must(t, r.send())
				synctest.Wait()
				began := time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				isError(t, b.Shutdown(ctx), context.Canceled, "1 handlers running")
				if took := time.Since(began); took < time.Second || took > time.Second+200*time.Millisecond {
					t.Errorf("it took %v, the context was cancelled after a second", took)
				}
				close(release)
			})
		})
	}
}

// TestPublishToWhileTheBusCloses has the acknowledgement never come: nobody knows
// whether the message is stored.
func TestPublishToWhileTheBusCloses(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]bus.StoreOption{nil, {bus.MsgID("x")}} {
		t.Run(fmt.Sprintf("%d options", len(opts)), func(t *testing.T) {
			t.Parallel()
			b := ownBus(t)
			st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S"})
			must(t, err)
			must(t, b.JetStream().DeleteStream(t.Context(), "S"))
			sent, stored := make(chan struct{}, 10), make(chan error, 1)
			_, err = b.Conn().Subscribe("S", func(*nats.Msg) { sent <- struct{}{} }) // it answers nothing
			must(t, err)
			go func() {
				_, err := bus.PublishTo(context.Background(), st, "S", 1, opts...)
				stored <- err
			}()
			wait(t, sent, "the message")
			must(t, shutdown(b, context.WithTimeout, 100*time.Millisecond))
			err = wait(t, stored, "PublishTo")
			isError(t, err, bus.ErrUnknownOutcome)
			if errors.Is(err, bus.ErrClosed) {
				t.Errorf("%v: as if it was not sent", err)
			}
			_, err = bus.PublishTo(context.Background(), st, "S", 1, opts...)
			isError(t, err, bus.ErrClosed)
		})
	}
}
