package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

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
		}, reason, "the context of Shutdown was cancelled"},
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
						asError[*bus.DrainError](t, err, "1 handler running")
					}
				default:
					err := tc.end(b)
					asError[*bus.DrainError](t, err, "1 handler running")
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
			asError[*bus.DrainError](t, err, "1 handler running")
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
			asError[*bus.DrainError](t, err, "1 handler running")
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
				isError(t, b.Shutdown(ctx), context.Canceled, "1 handler running")
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
			must(t, shutdown(b, context.WithTimeout, time.Second))
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

// By default Close returns before Kubernetes kills a program that it has sent SIGTERM, 30 s
// earlier.
func TestCloseByDefault(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
		b, err := bus.New(bus.WithLogger(silent()), bus.WithMaxMemory(16<<20))
		must(t, err)
		started, end := make(chan struct{}), make(chan struct{})
		must(t, second(bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error {
			close(started)
			<-end
			return nil
		})))
		must(t, bus.Publish(t.Context(), b, "a", 1))
		<-started
		began := time.Now()
		asError[*bus.DrainError](t, b.Close(), "1 handler running")
		if took := time.Since(began); took < 20*time.Second || took > 25*time.Second {
			t.Errorf("Close took %v", took)
		}
		close(end)
	})
}
