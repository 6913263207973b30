package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// replayed reads everything.
func replayed[T any](t testing.TB, st *bus.Stream, s bus.Subject[T], opts ...bus.ReplayOption) []*bus.Msg[T] {
	t.Helper()
	var all []*bus.Msg[T]
	for m, err := range bus.Replay(t.Context(), st, s, opts...) {
		must(t, err)
		all = append(all, m)
	}
	return all
}

// values are the payloads of ms.
func values[T any](ms []*bus.Msg[T]) []T {
	vs := make([]T, len(ms))
	for i, m := range ms {
		vs[i] = m.Data
	}
	return vs
}

// replayError is the error that ends a loop, after as many messages as it lets come.
func replayError[T any](ctx context.Context, st *bus.Stream, s bus.Subject[T], opts ...bus.ReplayOption) error {
	for m, err := range bus.Replay(ctx, st, s, opts...) {
		if m == nil {
			return err
		}
	}
	return nil
}

// rawStream makes a stream as others make them.
func rawStream(t testing.TB, b *bus.Bus, c jetstream.StreamConfig) *bus.Stream {
	t.Helper()
	_, err := b.JetStream().CreateStream(t.Context(), c)
	must(t, err)
	st, err := b.LookupStream(t.Context(), c.Name)
	must(t, err)
	return st
}

// Reading works on every kind of stream, and changes nothing there.
func TestReplayOnEveryKindOfStream(t *testing.T) {
	t.Parallel()
	const n = 300 // several batches
	for _, storage := range []jetstream.StorageType{jetstream.MemoryStorage, jetstream.FileStorage} {
		for _, retention := range []jetstream.RetentionPolicy{jetstream.LimitsPolicy, jetstream.WorkQueuePolicy, jetstream.InterestPolicy} {
			for _, direct := range []bool{true, false} {
				t.Run(fmt.Sprintf("%v, %v, direct %v", storage, retention, direct), func(t *testing.T) {
					t.Parallel()
					var opts []bus.Option
					if storage == jetstream.FileStorage {
						opts = append(opts, bus.WithStoreDir(t.TempDir()+"/store"), bus.WithSync(bus.SyncEvery(time.Second)))
					}
					b := bustest.New(t, opts...)
					st := rawStream(t, b, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Storage: storage, Retention: retention, AllowDirect: direct})
					con, err := b.JetStream().CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "other", AckPolicy: jetstream.AckExplicitPolicy})
					must(t, err)
					var want []int
					for i := range n {
						_, err := bus.PublishTo(t.Context(), st, bus.Subject[int](fmt.Sprintf("s.%d", i%2)), i)
						must(t, err)
						if i%2 == 1 && i%7 != 0 {
							want = append(want, i)
						}
					}
					js, err := b.JetStream().Stream(t.Context(), "S")
					must(t, err)
					for i := 0; i < n; i += 7 {
						must(t, js.DeleteMsg(t.Context(), uint64(i+1)))
					}
					const left = n - (n+6)/7
					pending := func() uint64 {
						i, err := con.Info(t.Context())
						must(t, err)
						return i.NumPending
					}
					eventually(t, "the consumer knows what was deleted", func() bool { return pending() == left })
					got := replayed(t, st, bus.Subject[int]("s.1"))
					if !slices.Equal(values(got), want) {
						t.Errorf("read %v, want %v", values(got), want)
					}
					for _, m := range got {
						if m.Sequence != uint64(m.Data)+1 || m.Stream != "S" || m.Subject != "s.1" || m.Header != nil || m.Time.IsZero() ||
							m.Attempt != 1 || m.Deliveries != 0 || m.ID != fmt.Sprintf("S/%d", m.Sequence) {
							t.Fatalf("got %+v", m)
						}
					}
					if i := streamInfo(t, b, "S"); i.State.Consumers != 1 || i.State.Msgs != left || pending() != left {
						t.Errorf("reading changed the stream: %+v", i.State)
					}
				})
			}
		}
	}
}

// What is stored while the loop runs is not of it; Follow goes on with it.
func TestReplayEnds(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		if got := replayed[int](t, st, "s"); len(got) != 0 {
			t.Errorf("read %v of an empty stream", values(got))
		}
		storeRange(t, st, "s", 0, 100)
		var got []int
		for m, err := range bus.Replay[int](t.Context(), st, "s") {
			must(t, err)
			got = append(got, m.Data)
			time.Sleep(time.Minute) // however long
			storeRange(t, st, "s", 100, 101)
		}
		if len(got) != 100 || got[99] != 99 {
			t.Errorf("read %v", got)
		}
	})
}

func TestReplayFollows(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		ctx, cancel := context.WithCancel(t.Context())
		got, ended := make(chan *bus.Msg[int], 1000), make(chan error, 1)
		storeRange(t, st, "s.a", 0, 50)
		go func() {
			for m, err := range bus.Replay[int](ctx, st, "s.a", bus.Follow()) {
				if m == nil {
					ended <- err
					continue
				}
				got <- m
			}
			close(ended)
		}()
		next := 0
		for round := range underRace(3, 5) {
			pass(time.Duration(round) * time.Minute)
			storeRange(t, st, "s.b", 0, 10) // not of the subject
			storeRange(t, st, "s.a", 50+50*round, 100+50*round)
			pass(time.Second)
			for ; next < 100+50*round; next++ {
				if m := receive(t, got); m.Data != next {
					t.Fatalf("got %d, want %d", m.Data, next)
				}
			}
			nothing(t, got)
		}
		cancel()
		isError(t, receive(t, ended), context.Canceled, `"S"`)
		pass(time.Second)
		nothing(t, got)
		if _, open := <-ended; open {
			t.Error("it went on after its end")
		}
	})
}

// A stopping bus ends a loop that follows.
func TestReplayEndsWithTheBus(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
		b := bustest.New(t)
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		ended := make(chan error, 1)
		go func() { ended <- replayError[int](context.Background(), st, "s", bus.Follow()) }()
		pass(time.Minute)
		must(t, b.Close())
		isError(t, receive(t, ended), bus.ErrClosed)
		isError(t, replayError[int](t.Context(), st, "s"), bus.ErrClosed)
	})
}

func TestReplayBegins(t *testing.T) {
	t.Parallel()
	for _, direct := range []bool{true, false} {
		t.Run(fmt.Sprint("direct ", direct), func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := rawStream(t, b, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}, AllowDirect: direct, Storage: jetstream.MemoryStorage})
				began := time.Now()
				for i := range 60 { // 0 to 19 are removed, 20 to 39 have gaps
					_, err := bus.PublishTo(t.Context(), st, bus.Subject[int]([]string{"s.a", "s.b", "s.b"}[i%3]), i)
					must(t, err)
					time.Sleep(time.Minute)
				}
				js, err := b.JetStream().Stream(t.Context(), "S")
				must(t, err)
				must(t, js.Purge(t.Context(), jetstream.WithPurgeSequence(21)))
				for i := 20; i < 40; i += 2 {
					must(t, js.DeleteMsg(t.Context(), uint64(i+1)))
				}
				tests := []struct {
					name        string
					opt         bus.ReplayOption
					first, many int
				}{
					{"at the first there is", bus.StartAtSequence(1), 21, 10},
					{"at a sequence", bus.StartAtSequence(52), 51, 3},
					{"between", bus.StartAtSequence(50), 51, 3},
					{"beyond the end", bus.StartAtSequence(1000), -1, 0},
					{"at a time", bus.StartAtTime(began.Add(51 * time.Minute)), 51, 3},
					{"a moment later", bus.StartAtTime(began.Add(51*time.Minute + 1)), 54, 2},
					{"before all", bus.StartAtTime(began.Add(-time.Hour)), 21, 10},
					{"in the future", bus.StartAtTime(began.Add(time.Hour * 24)), -1, 0},
				}
				for n, first := range []int{57, 54, 51, 48, 45, 42, 39, 33, 27, 21} {
					tests = append(tests, tests[0])
					tests[len(tests)-1].opt, tests[len(tests)-1].first, tests[len(tests)-1].many = bus.Last(n+1), first, n+1
				}
				tests = append(tests, tests[0])
				tests[len(tests)-1].opt = bus.Last(math.MaxInt)
				for _, tc := range tests {
					got := values(replayed[int](t, st, "s.a", tc.opt))
					if len(got) != tc.many || tc.many > 0 && got[0] != tc.first {
						t.Errorf("%s: read %v, want %d from %d on", tc.name, got, tc.many, tc.first)
					}
				}
			})
		})
	}
}

// What is stored while the beginning is looked for does not make it the stream's.
func TestReplayOfTheLastOfABusyStream(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	storeRange(t, st, "S", 0, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := 1000; ctx.Err() == nil; i++ {
			_ = second(bus.PublishTo(ctx, st, "S", i)) // until ctx ends
		}
	})
	for range 30 {
		if n := len(replayed(t, st, bus.Subject[int]("S"), bus.Last(3))); n != 3 {
			t.Errorf("got %d messages", n)
			break
		}
	}
	cancel()
	publishing.Wait()
}

// A message that cannot be read does not end the loop.
func TestReplayOfUnreadableMessages(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	for _, data := range []string{"2", "{", "3", "4"} {
		_, err := bus.PublishTo(t.Context(), st, "s", []byte(data), bus.WithHeader("Tenant", "x"))
		must(t, err)
	}
	var read []even
	var errs []error
	for m, err := range bus.Replay[even](t.Context(), st, "s") {
		if m == nil {
			t.Fatal(err)
		}
		if m.Subject != "s" || m.Header.Get("Tenant") != "x" || m.Sequence == 0 {
			t.Errorf("got %+v", m)
		}
		if err != nil {
			errs = append(errs, err)
			if m.Data != 0 {
				t.Errorf("the data is %d", m.Data)
			}
			continue
		}
		read = append(read, m.Data)
	}
	if !slices.Equal(read, []even{2, 4}) || len(errs) != 2 {
		t.Fatalf("read %v, errors %v", read, errs)
	}
	asError[*bus.CodecError](t, errs[0], "decode application/json")
	asError[*bus.ValidationError](t, errs[1], "3 is odd")
}

// Headers come as they were published, also those that the server uses itself.
func TestReplayOfHeaders(t *testing.T) {
	t.Parallel()
	for _, direct := range []bool{true, false} {
		t.Run(fmt.Sprint("direct ", direct), func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			st := rawStream(t, b, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, AllowDirect: direct, Storage: jetstream.MemoryStorage})
			want := bus.Header{"Nats-Subject": {"other"}, "Nats-Sequence": {"77"}, "Nats-Stream": {"T"}, "Nats-Time-Stamp": {"never"},
				"Nats-Last-Sequence": {"5"}, "Nats-Num-Pending": {"0"}, "Status": {"404"}, "tenant": {"a", "b"}}
			for range 3 { // as republished messages have them
				_, err := b.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: "s", Header: nats.Header(want), Data: []byte("1")})
				must(t, err)
			}
			got := replayed[int](t, st, "s")
			if len(got) != 3 {
				t.Fatalf("read %d messages", len(got))
			}
			for i, m := range got {
				if m.Sequence != uint64(i+1) || m.Subject != "s" || m.Stream != "S" || fmt.Sprint(m.Header) != fmt.Sprint(want) {
					t.Errorf("got %+v", m)
				}
			}
		})
	}
}

// Who leaves the loop leaves nothing behind.
func TestReplayIsLeft(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
		storeRange(t, st, "s", 0, 100)
		before := b.Conn().NumSubscriptions()
		for range 20 {
			n := 0
			for _, err := range bus.Replay[int](t.Context(), st, "s", bus.Follow()) {
				must(t, err)
				if n++; n == 50 {
					break
				}
			}
		}
		if n := b.Conn().NumSubscriptions(); n != before {
			t.Errorf("%d subscriptions are left, %d were there before", n, before)
		}
	})
}

// A stream that ends under the loop ends it, and so does another of its name.
func TestReplayOfAStreamThatIsDeleted(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		for _, opts := range [][]bus.ReplayOption{nil, {bus.Follow()}} {
			t.Run(fmt.Sprintf("made anew %v, options %d", again, len(opts)), func(t *testing.T) {
				t.Parallel()
				bustest.Run(t, func(t *testing.T, b *bus.Bus) {
					c := bus.StreamConfig{Name: "S", Subjects: []string{"s"}}
					st := declare(t, b, c)
					storeRange(t, st, "s", 0, 100)
					n := 0
					var last error
					for m, err := range bus.Replay[int](t.Context(), st, "s", opts...) {
						if last = err; m == nil {
							break
						}
						if n++; n == 5 {
							must(t, b.JetStream().DeleteStream(t.Context(), "S"))
							time.Sleep(time.Second)
							if again {
								storeRange(t, declare(t, b, c), "s", 0, 10)
							}
						}
					}
					isError(t, last, bus.ErrStreamNotFound, `"S"`, "replay")
					asError[*bus.StreamError](t, last)
				})
			})
		}
	}
}

// A lost connection costs no message: the rest is read when it is back.
func TestReplayOverALostConnection(t *testing.T) {
	t.Parallel()
	b, home, r, _ := remote(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}, Storage: bus.MemoryStorage})
	atHome, err := home.LookupStream(t.Context(), "S")
	must(t, err)
	const n = 3000
	storeRange(t, atHome, "s", 0, n)
	i := 0
	for m, err := range bus.Replay[int](t.Context(), st, "s") {
		must(t, err)
		if m.Data != i {
			t.Fatalf("read %d, want %d", m.Data, i)
		}
		if i++; i%700 == 0 {
			r.cut(false)
		}
	}
	if i != n {
		t.Errorf("read %d of %d", i, n)
	}
}

// Where no answer comes the loop ends with an error in time.
func TestReplayWithoutAnswers(t *testing.T) {
	t.Parallel()
	b, _, r, _ := remote(t, bus.WithTimeout(time.Second))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}, Storage: bus.MemoryStorage})
	r.deaf.Store(true)
	isError(t, replayError[int](t.Context(), st, "s"), bus.ErrTimeout, `"S"`)
	r.cut(true)
	isError(t, replayError[int](t.Context(), st, "s"), bus.ErrDisconnected, `"S"`)
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(errNo) })
	isError(t, replayError[int](ctx, st, "s", bus.Follow()), errNo)
}

func TestReplayMistakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	var noCtx context.Context
	asError[*bus.OptionError](t, replayError[int](t.Context(), nil, "s"), "stream is nil")
	asError[*bus.OptionError](t, replayError[int](noCtx, st, "s"), "ctx")
	isError(t, replayError[int](cancelled, st, "s"), context.Canceled)
	asError[*bus.SubjectError](t, replayError[int](t.Context(), st, "t"), "stores nothing that matches")
	asError[*bus.SubjectError](t, replayError[int](t.Context(), st, "a..b"))
	for _, opt := range []bus.ReplayOption{nil, bus.StartAtSequence(0), bus.StartAtTime(time.Time{}), bus.Last(0), bus.Last(-1), bus.As(nil)} {
		asError[*bus.OptionError](t, replayError[int](t.Context(), st, "s", opt))
	}
	asError[*bus.OptionError](t, replayError[int](t.Context(), st, "s", bus.Last(3), bus.StartAtFirst()), "Replay start(first)", "another option says last 3 already")
	asError[*bus.OptionError](t, replayError[int](t.Context(), st, "s", bus.StartAtSequence(2), bus.Last(3)), "Replay start(last 3)", "sequence 2 already")
	must(t, b.JetStream().DeleteStream(t.Context(), "S"))
	isError(t, replayError[int](t.Context(), st, "s"), bus.ErrStreamNotFound)
	if errors.Is(replayError[int](t.Context(), st, "s"), bus.ErrTimeout) {
		t.Error("it waited for the stream")
	}
}
