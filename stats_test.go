package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/stats"
)

// nonzero tells what in s is not zero, but for the subscriptions and the ratio.
func nonzero(s stats.Bus) string {
	var parts []string
	for _, c := range []struct {
		name string
		n    int64
	}{
		{"published", s.Published}, {"bytes", s.PublishedBytes}, {"failed", s.PublishFailed}, {"captured", s.Captured},
		{"buffered", int64(s.AsyncPending)}, {"requests", s.Requests}, {"request errors", s.RequestErrors},
		{"received", s.Received}, {"handled", s.Handled}, {"handler errors", s.HandlerErrors}, {"dropped", s.Dropped}, {"dead letters", s.DeadLetters},
		{"unrouted", s.Unrouted}, {"in flight", int64(s.InFlight)}, {"disconnects", s.Disconnects},
		{"reconnects", s.Reconnects}, {"events", s.Events},
	} {
		if c.n != 0 {
			parts = append(parts, fmt.Sprint(c.name, " ", c.n))
		}
	}
	return strings.Join(parts, ", ")
}

// sameStats compares b's statistics with want, which names what is not zero.
func sameStats(t testing.TB, b *bus.Bus, want string) {
	t.Helper()
	if got := nonzero(b.Stats()); got != want {
		t.Errorf("the statistics are\n%s\nwant\n%s", got, want)
	}
}

func TestStatsOfANewBus(t *testing.T) {
	t.Parallel()
	if got := fmt.Sprintf("%+v", bustest.New(t).Stats()); got != fmt.Sprintf("%+v", stats.Bus{}) {
		t.Errorf("the statistics are %s", got)
	}
}

func answerTwoBytes(context.Context, *bus.Msg[[]byte]) ([]byte, error) { return make([]byte, 2), nil }

// Each way of sending counts messages and the bytes of their payloads.
func TestStatsOfSending(t *testing.T) {
	t.Parallel()
	data := func(n int) []byte { return make([]byte, n) }
	for _, tc := range []struct {
		name string
		send func(ctx context.Context, b *bus.Bus, st *bus.Stream) error
		want string
	}{
		{"Publish", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return bus.Publish(ctx, b, "a", data(10))
		}, "published 1, bytes 10"},
		{"a header does not count", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return bus.Publish(ctx, b, "a", data(10), bus.WithHeader("K", "v"))
		}, "published 1, bytes 10"},
		{"PublishBatch", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return bus.PublishBatch(ctx, b, "a", [][]byte{data(1), data(2), data(4)})
		}, "published 3, bytes 7"},
		{"PublishAsync", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return errors.Join(bus.PublishAsync(ctx, b, "a", data(3)), bus.PublishAsync(ctx, b, "a", data(4)), b.Flush(ctx))
		}, "published 2, bytes 7"},
		{"PublishTo", func(ctx context.Context, _ *bus.Bus, st *bus.Stream) error {
			return errors.Join(second(bus.PublishTo(ctx, st, "stored", data(5))), second(bus.PublishTo(ctx, st, "stored", data(6))))
		}, "published 2, bytes 11"},
		{"a duplicate", func(ctx context.Context, _ *bus.Bus, st *bus.Stream) error {
			for range 2 {
				if _, err := bus.PublishTo(ctx, st, "stored", data(5), bus.MsgID("x")); err != nil {
					return err
				}
			}
			return nil
		}, "published 2, bytes 10"},
		{"Publish into a stream", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return errors.Join(bus.Publish(ctx, b, "stored", data(5)), bus.Publish(ctx, b, "stored", data(5)))
		}, "published 2, bytes 10, captured 2, events 1"},
		{"a request counts apart, its reply does not", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return second(bus.Request[[]byte](ctx, b, "answer", data(9)))
		}, "published 1, bytes 2, requests 1, received 1, handled 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := ownBus(t)
			st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"stored"}})
			must(t, err)
			sub, err := bus.Respond(b, "answer", answerTwoBytes)
			must(t, err)
			must(t, tc.send(t.Context(), b, st))
			must(t, sub.Drain(t.Context())) // the responder counts what it has done after it has answered
			sameStats(t, b, tc.want)
		})
	}
}

// Whatever is refused or cannot be sent counts as failed, once.
func TestStatsOfFailures(t *testing.T) {
	t.Parallel()
	large := make([]byte, 2<<20)
	for _, tc := range []struct {
		name string
		send func(ctx context.Context, b *bus.Bus, st *bus.Stream) error
		want string
	}{
		{"subject", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error { return bus.Publish(ctx, b, "a.*", 1) }, "failed 1"},
		{"option", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return bus.Publish(ctx, b, "a", 1, bus.WithHeader("", ""))
		}, "failed 1"},
		{"value", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return bus.Publish(ctx, b, "a", math.NaN())
		}, "failed 1"},
		{"size", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error { return bus.Publish(ctx, b, "a", large) }, "failed 1"},
		{"one of a batch", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return bus.PublishBatch(ctx, b, "a", []float64{1, math.NaN(), 3})
		}, "failed 1"},
		{"asynchronous", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return bus.PublishAsync(ctx, b, "a", large)
		}, "failed 1"},
		{"not of the stream", func(ctx context.Context, _ *bus.Bus, st *bus.Stream) error {
			return second(bus.PublishTo(ctx, st, "elsewhere", 1))
		}, "failed 1"},
		{"no such stream any more", func(ctx context.Context, b *bus.Bus, st *bus.Stream) error {
			must(t, b.JetStream().DeleteStream(ctx, "S"))
			return second(bus.PublishTo(ctx, st, "stored", 1))
		}, "failed 1"},
		{"the connection is closed", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			b.Conn().Close()
			return bus.Publish(ctx, b, "a", 1)
		}, "failed 1, disconnects 1, events 2"},
		{"a request", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return second(bus.Request[int](ctx, b, "nobody", 1))
		}, "requests 1, request errors 1"},
		{"a refused reply", func(ctx context.Context, b *bus.Bus, _ *bus.Stream) error {
			return second(bus.Request[int](ctx, b, "answer", 1, bus.As(jsonCodec)))
		}, "published 1, bytes 2, requests 1, request errors 1, received 1, handled 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := ownBus(t)
			st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"stored"}})
			must(t, err)
			sub, err := bus.Respond(b, "answer", answerTwoBytes)
			must(t, err)
			if err := tc.send(t.Context(), b, st); err == nil {
				t.Fatal("it was sent")
			}
			_ = sub.Drain(t.Context()) // the connection may be closed
			eventually(t, "the statistics are "+tc.want, func() bool { return nonzero(b.Stats()) == tc.want })
		})
	}
}

// What does not fit into the buffer of PublishAsync was refused, too.
func TestStatsOfAFullBuffer(t *testing.T) {
	t.Parallel()
	b, server := stalledBus(t, bus.AsyncBuffer{Size: 2, NoWait: true})
	for range 2 {
		must(t, bus.PublishAsync(t.Context(), b, "a", 1))
	}
	for range 3 {
		isError(t, bus.PublishAsync(t.Context(), b, "a", 1), bus.ErrBufferFull)
	}
	sameStats(t, b, "published 100, bytes 100, failed 3, buffered 2")
	server.answerPings()
	eventually(t, "the rest is sent", func() bool { return b.Stats().Published == 102 })
	sameStats(t, b, "published 102, bytes 102, failed 3")
}

// What a subscription does shows while it does it.
func TestStatsOfASubscription(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 3} {
		t.Run(fmt.Sprint("concurrency ", concurrency), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				steps := make(chan func() error)
				sub, err := bus.Subscribe(b, "a.*", func(context.Context, *bus.Msg[[]byte]) error { return (<-steps)() }, bus.Concurrency(concurrency))
				must(t, err)
				for range 10 {
					must(t, bus.Publish(t.Context(), b, "a.b", make([]byte, 100)))
				}
				must(t, b.Flush(t.Context()))
				look := func(begun, handled, failed, panics int) {
					t.Helper()
					synctest.Wait()
					running := begun - handled - failed
					want := stats.Subscription{Subject: "a.*", Received: int64(begun), Handled: int64(handled), HandlerErrors: int64(failed),
						Panics: int64(panics), InFlight: running, Pending: 10 - begun}
					got := subStats(t, b, "a.*", "")
					if bytes := got.PendingBytes; bytes < 100*want.Pending || bytes > 100*(want.Pending+running) {
						t.Errorf("%d bytes wait with %d messages of 100", bytes, want.Pending)
					}
					got.PendingBytes, got.Latency = 0, stats.Latency{}
					if got != want {
						t.Errorf("the statistics are\n%+v, want\n%+v", got, want)
					}
					s := b.Stats()
					if s.Received != want.Received || s.Handled != want.Handled || s.HandlerErrors != want.HandlerErrors || s.InFlight != running {
						t.Errorf("the sums are %s", nonzero(s))
					}
				}
				n := concurrency
				look(n, 0, 0, 0)
				steps <- func() error { return nil }
				look(n+1, 1, 0, 0)
				steps <- func() error { return errors.New("no") }
				look(n+2, 1, 1, 0)
				steps <- func() error { panic("oh") }
				look(n+3, 1, 2, 1)
				close(steps)
				_ = sub // the rest panics: there is no step any more
				synctest.Wait()
				look(10, 1, 9, 8)
			}, bus.WithLogger(silent()))
		})
	}
}

// Who it is that has these statistics.
func TestStatsNameTheSubscription(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithName("shop"))
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	must(t, err)
	must(t, second(bus.Subscribe(b, "a.*", ignore[int])))
	must(t, second(bus.Subscribe(b, "a.>", ignore[int], bus.Queue("workers"))))
	must(t, second(bus.Respond(b, "r", double)))
	must(t, second(bus.Respond(b, "r2", double, bus.Queue("others"))))
	must(t, second(bus.Consume(t.Context(), st, "d", "s.*", ignore[int])))
	m := new(bus.Mux)
	bus.Handle(m, "m.x", ignore[int])
	must(t, second(b.Subscribe("m.>", m, bus.Queue("muxes"))))
	want := map[string]bool{"a.*||| ": true, "a.>|workers|| ": true, "r|shop|| ": true, "r2|others|| ": true, "s.*||S|d ": true, "m.>|muxes|| ": true}
	for _, s := range b.Stats().Subscriptions {
		key := fmt.Sprintf("%s|%s|%s|%s ", s.Subject, s.Queue, s.Stream, s.Durable)
		if !want[key] {
			t.Errorf("there is %+v", s)
		}
		delete(want, key)
	}
	if len(want) > 0 {
		t.Errorf("there is none of %v", want)
	}
}

// What has ended is no longer listed, and its sums stay.
func TestStatsOfWhatHasEnded(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *bus.Bus, *bus.Subscription, *bus.Subscription, *bus.Consumer){
		"drained": func(t *testing.T, _ *bus.Bus, sub, responder *bus.Subscription, con *bus.Consumer) {
			must(t, errors.Join(sub.Drain(t.Context()), responder.Drain(t.Context()), con.Drain(t.Context())))
		},
		"unsubscribed": func(t *testing.T, _ *bus.Bus, sub, responder *bus.Subscription, con *bus.Consumer) {
			must(t, errors.Join(sub.Unsubscribe(), responder.Unsubscribe(), con.Drain(t.Context())))
		},
		"closed": func(t *testing.T, b *bus.Bus, _, _ *bus.Subscription, _ *bus.Consumer) { must(t, b.Close()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
				must(t, err)
				slow, began, release := held[int](100)
				sub, err := bus.Subscribe(b, "a", func(ctx context.Context, m *bus.Msg[int]) error {
					return errors.Join(slow(ctx, m), failOdd(ctx, m))
				}, bus.PendingLimits(5, -1))
				must(t, err)
				responder, err := bus.Respond(b, "r", double)
				must(t, err)
				con, err := bus.Consume(t.Context(), st, "d", "s", ignore[int])
				must(t, err)
				publishRange(t, b, "a", 0, 1)
				receive(t, began)
				publishRange(t, b, "a", 1, 20) // some are dropped: there is room for five
				must(t, second(bus.Request(t.Context(), b, bus.Endpoint[int, int]("r"), 1)))
				must(t, second(bus.PublishTo(t.Context(), st, "s", 1)))
				close(release)
				time.Sleep(3 * time.Minute) // in the bubble: all that was dropped is reported
				before := nonzero(b.Stats())
				if !strings.Contains(before, "received 7, handled 5, handler errors 2, dropped 15") {
					t.Errorf("the statistics are %s", before)
				}
				end(t, b, sub, responder, con)
				s := b.Stats()
				if len(s.Subscriptions) != 0 {
					t.Errorf("these are listed: %+v", s.Subscriptions)
				}
				if after := nonzero(s); after != before {
					t.Errorf("the statistics are\n%s, were\n%s", after, before)
				}
			}, bus.WithLogger(silent()))
		})
	}
}

// A handler that ends its own subscription counts like any other.
func TestStatsOfAHandlerThatEndsItsSubscription(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]error{"handled": nil, "handler errors": errors.New("no")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, bus.WithLogger(silent()))
			var sub *bus.Subscription
			ready, ended := make(chan struct{}), make(chan error, 1)
			sub, err := bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error {
				<-ready
				ended <- sub.Unsubscribe()
				return fail
			})
			must(t, err)
			close(ready)
			publishRange(t, b, "a", 0, 1)
			must(t, receive(t, ended))
			eventually(t, "the call is counted: "+nonzero(b.Stats()), func() bool {
				return strings.Contains(nonzero(b.Stats()), "received 1, "+name+" 1")
			})
		})
	}
}

// The sums of all that ever was neither go down nor count anything twice, also
// while subscriptions come and go.
func TestStatsNeverGoBack(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	const each = 100
	rounds := underRace(50, 300)
	var sent atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for range rounds {
			sub, err := bus.Subscribe(b, "a", ignore[int])
			if err != nil {
				t.Error(err)
				return
			}
			sent.Add(each)
			publishRange(t, b, "a", 0, each)
			if err := sub.Drain(t.Context()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	for last := int64(0); ; {
		s := b.Stats()
		if s.Handled < last || s.Handled > sent.Load() {
			t.Fatalf("%d handled, %d before; %d were sent", s.Handled, last, sent.Load())
		}
		last = s.Handled
		select {
		case <-ended:
			if n := b.Stats().Handled; n != int64(each*rounds) {
				t.Errorf("%d handled, want %d", n, each*rounds)
			}
			return
		default:
		}
	}
}

// about fails the test unless got is want to 6 %.
func about(t testing.TB, what string, got, want time.Duration) {
	t.Helper()
	if d := got - want; d < -want*6/100 || d > want*6/100 {
		t.Errorf("%s is %v, want %v to 6 %%", what, got, want)
	}
}

// How long handlers take, of the first 64 calls and then of one in 16; of
// responders all calls are timed.
func TestLatency(t *testing.T) {
	t.Parallel()
	nap := func(d time.Duration) time.Duration { time.Sleep(d); return d }
	naps := make([]time.Duration, 0, 64)
	for i := range 64 {
		naps = append(naps, []time.Duration{time.Second, 10 * time.Second, 100 * time.Second}[min(i/57+i/63, 2)])
	}
	t.Run("quantiles", func(t *testing.T) {
		t.Parallel()
		bustest.Run(t, func(t *testing.T, b *bus.Bus) {
			_, err := bus.Subscribe(b, "a", func(_ context.Context, m *bus.Msg[time.Duration]) error { nap(m.Data); return nil })
			must(t, err)
			must(t, bus.PublishBatch(t.Context(), b, "a", naps))
			time.Sleep(time.Hour)
			l := subStats(t, b, "a", "").Latency
			about(t, "P50", l.P50, time.Second)
			about(t, "P90", l.P90, 10*time.Second)
			about(t, "P99", l.P99, 100*time.Second)
			if l.Samples != 64 || l.Max != 100*time.Second {
				t.Errorf("%+v, want 64 samples of at most 100s", l)
			}
		})
	})
	t.Run("samples", func(t *testing.T) {
		t.Parallel()
		bustest.Run(t, func(t *testing.T, b *bus.Bus) {
			must(t, second(bus.Subscribe(b, "a", ignore[int])))
			must(t, second(bus.Respond(b, "a", double)))
			publishRange(t, b, "a", 0, 64+1600)
			synctest.Wait()
			if n := subStats(t, b, "a", "").Latency.Samples; n < 64+90 || n > 64+110 {
				t.Errorf("%d calls of the subscription were timed, want about 164 of 1664", n)
			}
			if n := subStats(t, b, "a", b.Conn().Opts.Name).Latency.Samples; n != 1664 {
				t.Errorf("%d calls of the responder were timed, want all 1664", n)
			}
		})
	})
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		b := bustest.New(t)
		must(t, second(bus.Subscribe(b, "a", ignore[int])))
		if l := subStats(t, b, "a", "").Latency; l != (stats.Latency{}) {
			t.Errorf("%+v before the first call", l)
		}
	})
}

// The ratio is of what was compressed alone.
func TestCompressionRatio(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithCompression(bus.Compression{Encoding: codec.Zstd, MinSize: 1000}))
	must(t, bus.Publish(t.Context(), b, "a", make([]byte, 500))) // too small
	if r := b.Stats().CompressionRatio; r != 0 {
		t.Errorf("the ratio is %v though nothing was compressed", r)
	}
	before := b.Stats().PublishedBytes
	must(t, bus.Publish(t.Context(), b, "a", make([]byte, 100000)))
	s := b.Stats()
	sent := s.PublishedBytes - before
	if want := 100000 / float64(sent); sent > 1000 || math.Abs(s.CompressionRatio-want) > 1e-9 {
		t.Errorf("the ratio is %v, want %v: %d bytes were sent", s.CompressionRatio, want, sent)
	}
}

func TestStatsOfReconnects(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := bustest.New(t, record)
	for range 2 {
		must(t, b.Conn().ForceReconnect())
		nextEvent(t, events, event.Disconnected)
		nextEvent(t, events, event.Reconnected)
	}
	sameStats(t, b, "disconnects 2, reconnects 2, events 4")
}

// The end of the bus is no loss of the connection.
func TestStatsAfterClose(t *testing.T) {
	t.Parallel()
	record, events := recordEvents()
	b := ownBus(t, record)
	must(t, b.Close())
	sameStats(t, b, "")
	nothing(t, events)
}

// A message that the server had sent to another one before counts once, however
// often it is tried here; what is only tried again here does not count.
func TestRedelivered(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		storeRange(t, st, "s", 0, 4)
		giveBack(t, b, "S", "d", 2) // 0 and 1
		consume(t, st, "d", "s", func(_ context.Context, m *bus.Msg[int]) error {
			if m.Data%2 == 1 && m.Attempt < 4 {
				return errNo
			}
			return nil
		})
		time.Sleep(time.Minute)
		s := b.Stats().Subscriptions[0]
		if s.Redelivered != 2 || s.Received != 10 || s.Handled != 4 || s.HandlerErrors != 6 {
			t.Errorf("the statistics are %+v, want 2 redelivered of 4 messages in 10 calls", s)
		}
	}, bus.WithLogger(silent()))
}

func TestStatsOfDeadLetters(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		con := consume(t, st, "d", "s", func(ctx context.Context, m *bus.Msg[int]) error { return bus.Permanent(failOdd(ctx, m)) })
		storeRange(t, st, "s", 0, 5)
		time.Sleep(time.Minute)
		s := b.Stats()
		if one := s.Subscriptions[0]; one.DeadLetters != 2 || one.Received != 5 || one.Handled != 3 || one.HandlerErrors != 2 || s.DeadLetters != 2 {
			t.Errorf("the statistics are %+v", s)
		}
		must(t, con.Drain(t.Context()))
		if s := b.Stats(); s.DeadLetters != 2 || len(s.Subscriptions) != 0 {
			t.Errorf("in the end the statistics are %+v", s)
		}
	}, bus.WithLogger(silent()))
}

// giveBack makes the durable and takes n messages of its, which it gives back.
func giveBack(t *testing.T, b *bus.Bus, stream, durable string, n int) {
	t.Helper()
	_, err := b.JetStream().CreateConsumer(t.Context(), stream, jetstream.ConsumerConfig{Durable: durable, FilterSubject: "s",
		AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1})
	must(t, err)
	taken := make([]*nats.Msg, n)
	for i := range taken {
		taken[i], err = b.Conn().RequestWithContext(t.Context(), "$JS.API.CONSUMER.MSG.NEXT."+stream+"."+durable, nil)
		must(t, err)
	}
	for _, m := range taken {
		must(t, m.Respond([]byte("-NAK")))
	}
	must(t, b.Flush(t.Context()))
}

// The list of subscriptions has an order.
func TestStatsAreSorted(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for _, s := range []string{"c", "a", "b.>", "a"} {
		must(t, second(bus.Subscribe(b, bus.Subject[int](s), ignore[int])))
	}
	must(t, second(bus.Subscribe(b, "a", ignore[int], bus.Queue("q"))))
	for _, name := range []string{"T", "S"} {
		st := declare(t, b, bus.StreamConfig{Name: name})
		for _, durable := range []string{"y", "x"} {
			consume(t, st, durable, bus.Subject[int](name), ignore[int])
		}
	}
	want := []string{"a/", "a/", "a/q", "b.>/", "c/", "S/S/x", "S/S/y", "T/T/x", "T/T/y"}
	for range 10 {
		for i, s := range b.Stats().Subscriptions {
			name := s.Subject + "/" + s.Queue
			if s.Stream != "" {
				name = s.Subject + "/" + s.Stream + "/" + s.Durable
			}
			if name != want[i] {
				t.Fatalf("at %d is %s, want %s", i, name, want[i])
			}
		}
	}
}
