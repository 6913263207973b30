package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
