package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/internal/testserver"
)

// What lies beside the stream comes back by itself when somebody takes it away.
func TestStreamsBesideAreMadeAnew(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		remove func(context.Context, jetstream.JetStream) error
	}{
		{"the dead letters", func(ctx context.Context, js jetstream.JetStream) error { return js.DeleteStream(ctx, "S-dead") }},
		{"the retries", func(ctx context.Context, js jetstream.JetStream) error { return js.DeleteStream(ctx, "S-retry") }},
		{"the consumer of the retries", func(ctx context.Context, js jetstream.JetStream) error {
			return js.DeleteConsumer(ctx, "S-retry", "d")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				var got ledger
				con := consume(t, st, "d", "S", func(ctx context.Context, m *bus.Msg[int]) error {
					switch {
					case m.Data%3 == 0 && m.Attempt == 1:
						return bus.RetryAfter(time.Hour, errNo) // parked
					case m.Data%3 == 1:
						return bus.Permanent(errNo)
					}
					return got.handle(ctx, m)
				})
				synctest.Wait()
				must(t, tc.remove(t.Context(), b.JetStream()))
				storeRange(t, st, "S", 0, 9)
				pass(30 * time.Second)
				must(t, con.Err())
				nothing(t, con.Done())
				pass(70 * time.Minute)
				if n, dead := got.distinct(), len(deadLetters(t, st, bus.DeadFilter{})); n != 6 || dead != 3 {
					t.Errorf("%d messages were handled, %d are dead", n, dead)
				}
				healthy(t, b)
				must(t, con.Drain(t.Context()))
				mustBeAcknowledged(t, b, "S", "d")
			}, bus.WithLogger(silent()))
		})
	}
}

// recreate deletes the stream and declares it again, stores values, and makes its durable
// again as it was.
func recreate(t *testing.T, b *bus.Bus, config bus.StreamConfig, durable string, values ...int) *bus.Stream {
	t.Helper()
	con := consumerInfo(t, b, config.Name, durable).Config
	must(t, b.JetStream().DeleteStream(t.Context(), config.Name))
	st := declare(t, b, config)
	for _, v := range values {
		storeRange(t, st, bus.Subject[int](config.Name), v, v+1)
	}
	_, err := b.JetStream().CreateConsumer(t.Context(), config.Name, con)
	must(t, err)
	return st
}

// deadByData returns how many dead letters have which payload.
func deadByData(t *testing.T, st *bus.Stream) map[string]int {
	t.Helper()
	dead := map[string]int{}
	for _, l := range deadLetters(t, st, bus.DeadFilter{}) {
		dead[string(l.Data)]++
	}
	return dead
}

// Messages of a stream that was made anew repeat the sequences of others: their dead
// letters, and their retries, are kept beside those.
func TestDeadLettersOfAStreamThatIsMadeAnew(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		config := bus.StreamConfig{Name: "S"}
		st := declare(t, b, config)
		record := make(chan int, 100)
		fail := func(_ context.Context, m *bus.Msg[int]) error {
			record <- m.Data
			if m.Data%2 == 0 {
				return bus.Permanent(errNo)
			}
			return bus.RetryAfter(time.Hour, errNo)
		}
		con := consume(t, st, "d", "S", fail, bus.Retry(bus.RetryPolicy{MaxAttempts: 2}))
		storeRange(t, st, "S", 0, 4)
		pass(time.Minute)
		recreate(t, b, config, "d")
		receive(t, con.Done())
		// The next one has the Stream that was declared before.
		now := consume(t, st, "d", "S", fail, bus.Retry(bus.RetryPolicy{MaxAttempts: 2}))
		storeRange(t, st, "S", 100, 104)
		pass(90 * time.Minute)
		dead := deadByData(t, st)
		for _, data := range []int{0, 1, 2, 3, 100, 101, 102, 103} {
			if dead[fmt.Sprint(data)] == 0 {
				t.Errorf("message %d is no dead letter: %v", data, dead)
			}
		}
		must(t, now.Drain(t.Context()))
	}, bus.WithLogger(silent()))
}

// The same for a consumer that is busy and does not notice.
func TestDeadLettersOfAStreamThatIsMadeAnewUnnoticed(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		config := bus.StreamConfig{Name: "S"}
		st := declare(t, b, config)
		con := consume(t, st, "d", "S", func(_ context.Context, m *bus.Msg[int]) error {
			time.Sleep(10 * time.Second) // in the bubble: virtual time
			return bus.Permanent(errNo)
		})
		storeRange(t, st, "S", 0, 50) // its window is full
		pass(25 * time.Second)
		st = recreate(t, b, config, "d")
		storeRange(t, st, "S", 100, 104)
		pass(time.Hour)
		dead := deadByData(t, st)
		for _, data := range []int{0, 1, 100, 101, 102, 103} {
			if dead[fmt.Sprint(data)] != 1 {
				t.Errorf("message %d is a dead letter %d times: %v", data, dead[fmt.Sprint(data)], dead)
			}
		}
		must(t, con.Err())
		must(t, con.Drain(t.Context()))
	}, bus.WithLogger(silent()))
}

// A consumer that somebody deletes and makes anew, with the same configuration, goes on
// or ends with an error; none hangs.
func TestConsumerThatIsMadeAnew(t *testing.T) {
	t.Parallel()
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprintf("busy=%t", busy), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				storeRange(t, st, "S", 0, 300)
				var got ledger
				con := consume(t, st, "d", "S", func(ctx context.Context, m *bus.Msg[int]) error {
					if busy {
						time.Sleep(time.Second) // in the bubble: virtual time
					}
					return got.handle(ctx, m)
				})
				pass(3 * time.Second)
				durable := consumerInfo(t, b, "S", "d").Config
				must(t, b.JetStream().DeleteConsumer(t.Context(), "S", "d"))
				_, err := b.JetStream().CreateConsumer(t.Context(), "S", durable)
				must(t, err)
				pass(20 * time.Minute)
				select {
				case <-con.Done():
					asError[*bus.StreamError](t, con.Err(), "deleted on the server")
				default:
					must(t, con.Err())
					if n := got.distinct(); n != 300 {
						t.Errorf("%d of 300 messages were handled", n)
					}
					mustBeAcknowledged(t, b, "S", "d")
				}
			}, bus.WithLogger(silent()))
		})
	}
}

// A server that is started again on its files is used again: also the consumer of the
// retries, which it does not keep on disk.
func TestConsumeOverARestartOfTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := startOn(t, dir, 0)
	b, err := bus.Connect(t.Context(), srv.ClientURL(), bus.WithLogger(silent()), bus.WithDrainTimeout(patience))
	must(t, err)
	defer func() { must(t, b.Close()) }()
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	var again atomic.Bool
	got := make(chan int, 100)
	con := consume(t, st, "d", "S", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data%2 == 1 && !again.Load() {
			return bus.Permanent(errors.New("not yet"))
		}
		got <- m.Data
		return nil
	})
	storeRange(t, st, "S", 0, 4)
	receive(t, got)
	receive(t, got)
	eventually(t, "two are dead", func() bool { return len(deadLetters(t, st, bus.DeadFilter{})) == 2 })
	_, port := splitAddr(t, srv.Addr().String())
	srv.Shutdown()
	srv.WaitForShutdown()
	startOn(t, dir, port)
	eventually(t, "the bus is back", b.Conn().IsConnected)
	again.Store(true)
	must(t, second(bus.PublishTo(withDeadline(t, patience), st, "S", 4, bus.MsgID("4"))))
	if n := receive(t, got); n != 4 {
		t.Errorf("got %d", n)
	}
	n, err := st.Redrive(t.Context(), bus.DeadFilter{})
	must(t, err)
	for range n {
		if v := receive(t, got); v%2 != 1 {
			t.Errorf("got %d", v)
		}
	}
	must(t, con.Err())
	must(t, con.Drain(t.Context()))
}

// startOn starts a server with its streams in dir, on a port unless that is 0.
func startOn(t *testing.T, dir string, port int) *server.Server {
	t.Helper()
	return testserver.New(t, testserver.WithPort, testserver.WithJetStream, func(o *server.Options) {
		if port != 0 {
			o.Port = port
		}
		o.StoreDir, o.JetStreamMaxMemory, o.JetStreamMaxStore = dir, 64<<20, 64<<20
	}).NATS()
}

// A drain has nothing to wait for where what came back was handled and the stream of
// that is gone.
func TestDrainWithoutTheRetries(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		storeRange(t, st, "S", 0, 1)
		calls, free := 0, make(chan struct{})
		con := consume(t, st, "d", "S", func(context.Context, *bus.Msg[int]) error {
			if calls++; calls == 1 {
				return bus.Permanent(errNo)
			}
			<-free
			return nil
		})
		pass(time.Second)
		_, err := st.Redrive(t.Context(), bus.DeadFilter{})
		must(t, err)
		pass(time.Second)
		must(t, b.JetStream().DeleteStream(t.Context(), "S-retry"))
		time.AfterFunc(10*time.Millisecond, func() { close(free) })
		must(t, con.Drain(t.Context()))
	}, bus.WithLogger(silent()))
}

// A message of a stream that was made anew, which was parked in the place of an older
// one, finds the dead letter of that one there and is kept beside it.
func TestLetterOfWhatWasParkedInAnothersPlace(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		config := bus.StreamConfig{Name: "S"}
		st := declare(t, b, config)
		consume(t, st, "d", "S", func(_ context.Context, m *bus.Msg[int]) error {
			if m.Data == 100 && m.Attempt == 1 {
				return bus.RetryAfter(time.Hour, errNo) // parked
			}
			if m.Data < 100 {
				time.Sleep(time.Minute) // in the bubble: virtual time
			}
			return bus.Permanent(errNo)
		}, bus.Concurrency(10))
		storeRange(t, st, "S", 0, 20) // its window is full
		pass(10 * time.Second)
		st = recreate(t, b, config, "d", 100)
		pass(90 * time.Minute)
		dead := deadByData(t, st)
		if dead["100"] != 1 {
			t.Errorf("message 100 is a dead letter %d times: %v", dead["100"], dead)
		}
	}, bus.WithLogger(silent()))
}

// Also where yet another message has the place that it would get instead, since the
// stream was made anew twice.
func TestLetterOfWhatFindsBothPlacesTaken(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		config := bus.StreamConfig{Name: "S"}
		st := declare(t, b, config)
		handle := func(_ context.Context, m *bus.Msg[int]) error {
			if m.Data == 100 && m.Attempt == 1 {
				return bus.RetryAfter(time.Hour, errNo) // parked in the place of 0
			}
			if m.Data < 100 {
				time.Sleep(time.Minute) // in the bubble: virtual time
			}
			return bus.Permanent(errNo)
		}
		con := consume(t, st, "d", "S", handle, bus.Concurrency(10))
		storeRange(t, st, "S", 0, 20) // its window is full
		pass(10 * time.Second)
		recreate(t, b, config, "d", 100)
		pass(10 * time.Minute)
		must(t, b.JetStream().DeleteStream(t.Context(), "S"))
		receive(t, con.Done())
		st = declare(t, b, config)
		storeRange(t, st, "S", 200, 201)
		consume(t, st, "d", "S", handle)
		pass(90 * time.Minute)
		dead := deadByData(t, st)
		if dead["0"] != 1 || dead["100"] != 1 || dead["200"] != 1 {
			t.Errorf("dead letters: %v", dead)
		}
	}, bus.WithLogger(silent()))
}
