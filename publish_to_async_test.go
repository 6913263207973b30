package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

// storeAsync publishes from to to-1 without waiting.
func storeAsync(t testing.TB, st *bus.Stream, s bus.Subject[int], from, to int, opts ...bus.StoreOption) []*bus.Future {
	t.Helper()
	var futures []*bus.Future
	for i := from; i < to; i++ {
		f, err := bus.PublishToAsync(t.Context(), st, s, i, opts...)
		must(t, err)
		futures = append(futures, f)
	}
	return futures
}

// sequence waits for the outcome of f, which must be good.
func sequence(t testing.TB, f *bus.Future) uint64 {
	t.Helper()
	ack, err := f.Wait(t.Context())
	if err != nil {
		t.Error(err)
		return 0
	}
	return ack.Sequence
}

// silence takes the stream away and has somebody listen where it was: nobody answers
// then, and nobody says that there is no stream.
func silence(t testing.TB, b *bus.Bus, st *bus.Stream) {
	t.Helper()
	must(t, b.JetStream().DeleteStream(t.Context(), st.Name()))
	must(t, second(bus.Subscribe(b, bus.Subject[int](st.Subjects()[0]), ignore[int])))
}

func isDone(f *bus.Future) bool {
	select {
	case <-f.Done():
		return true
	default:
		return false
	}
}

func TestPublishToAsyncKeepsOrder(t *testing.T) {
	t.Parallel()
	for _, window := range []int{1, 7, 1024} {
		t.Run(fmt.Sprint(window), func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t, bus.WithAsyncBuffer(bus.AsyncBuffer{Window: window}))
			st := declare(t, b, bus.StreamConfig{Name: "S"})
			futures := storeAsync(t, st, "S", 0, 2000)
			must(t, b.Flush(t.Context()))
			for i, f := range futures {
				if !isDone(f) {
					t.Fatalf("Flush did not wait for message %d", i)
				}
				if n := sequence(t, f); n != uint64(i+1) {
					t.Fatalf("message %d has the sequence %d", i, n)
				}
			}
			for seq, data := range messagesOf(t, b, "S") {
				if data != fmt.Sprint(seq-1) {
					t.Fatalf("%d is %s", seq, data)
				}
			}
			if s := b.Stats(); s.Published != 2000 || s.PublishFailed != 0 {
				t.Errorf("published %d, failed %d", s.Published, s.PublishFailed)
			}
		})
	}
}

// Who waits for room gives up with its context; messages that nobody answers give up
// with theirs, or with the bus's timeout.
func TestPublishToAsyncWaits(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		silence(t, b, st)
		began := time.Now()
		since := func() time.Duration { return time.Since(began) }
		usual := storeAsync(t, st, "S", 0, 1)[0]
		short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		early, err := bus.PublishToAsync(short, st, "S", 1)
		must(t, err)
		cancel() // does not take it back

		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = bus.PublishToAsync(impatient, st, "S", 2)
		isError(t, err, bus.ErrTimeout, "2 messages have no acknowledgement", "WithAsyncBuffer")
		_, err = early.Wait(impatient)
		isError(t, err, bus.ErrTimeout, "Future.Wait")
		if isDone(early) || since() != time.Second {
			t.Errorf("after %v it is done: %v", since(), isDone(early))
		}
		late, err := bus.PublishToAsync(t.Context(), st, "S", 3) // waits for room
		must(t, err)
		if since() != 3*time.Second {
			t.Errorf("there was room after %v", since())
		}
		for _, tc := range []struct {
			f    *bus.Future
			want time.Duration
		}{{early, 3 * time.Second}, {usual, time.Minute}, {late, time.Minute + time.Second}} {
			_, err := tc.f.Wait(context.Background())
			isError(t, err, bus.ErrUnknownOutcome, `"S"`, "publish", "MsgID or AutoID")
			isError(t, err, context.DeadlineExceeded)
			if since() != tc.want {
				t.Errorf("it took %v, want %v", since(), tc.want)
			}
		}
		if s := b.Stats(); s.PublishFailed != 4 {
			t.Errorf("%d failed", s.PublishFailed)
		}
	}, bus.WithTimeout(time.Minute), bus.WithAsyncBuffer(bus.AsyncBuffer{Window: 2}))
}

// A message with an ID is sent again until it is answered.
func TestPublishToAsyncIsRepeated(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		silence(t, b, st)
		futures := append(storeAsync(t, st, "S", 0, 3, bus.AutoID()), storeAsync(t, st, "S", 3, 4)...)
		time.Sleep(9 * time.Second)
		again := declare(t, b, bus.StreamConfig{Name: "S"})
		for i, f := range futures[:3] {
			if n := sequence(t, f); n != uint64(i+1) {
				t.Errorf("message %d has the sequence %d", i, n)
			}
		}
		isError(t, second(futures[3].Wait(t.Context())), bus.ErrUnknownOutcome)
		mustHold(t, b, again.Name(), 1, 3)
	}, bus.WithTimeout(time.Minute))
}

func TestPublishToAsyncToAStreamThatIsGone(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]bus.StoreOption{"without an ID": nil, "with an ID": {bus.AutoID()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, b *bus.Bus) {
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				must(t, b.JetStream().DeleteStream(t.Context(), "S"))
				began := time.Now()
				futures := storeAsync(t, st, "S", 0, 3, opts...)
				for _, f := range futures {
					isError(t, second(f.Wait(t.Context())), bus.ErrStreamNotFound, "declare it with Bus.Stream")
				}
				if took := time.Since(began); took < 400*time.Millisecond || took > time.Second {
					t.Errorf("it took %v", took)
				}
				time.AfterFunc(250*time.Millisecond, func() { declare(t, b, bus.StreamConfig{Name: "S"}) })
				for i, f := range storeAsync(t, st, "S", 0, 3, opts...) {
					if n := sequence(t, f); n != uint64(i+1) {
						t.Errorf("message %d has the sequence %d", i, n)
					}
				}
			})
		})
	}
}

func TestPublishToAsyncRefuses(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	ctx := t.Context()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	async := func(ctx context.Context, s bus.Subject[any], v any, opts ...bus.StoreOption) error {
		return second(bus.PublishToAsync(ctx, st, s, v, opts...))
	}
	asError[*bus.SubjectError](t, async(ctx, "elsewhere", 1), "does not store it")
	asError[*bus.CodecError](t, async(ctx, "s.a", make(chan int)))
	asError[*bus.PayloadError](t, async(ctx, "s.a", strings.Repeat("x", 2<<20)))
	asError[*bus.OptionError](t, async(ctx, "s.a", 1, bus.MsgID("")), "MsgID")
	isError(t, async(cancelled, "s.a", 1), context.Canceled)
	asError[*bus.OptionError](t, async(nil, "s.a", 1), "ctx")
	asError[*bus.OptionError](t, second(bus.PublishToAsync(ctx, nil, "s.a", 1)), "stream")
	asError[*bus.OptionError](t, second((*bus.Future)(nil).Wait(ctx)), "future", "did PublishToAsync fail?")

	good, err := bus.PublishToAsync(ctx, st, "s.a", 1)
	must(t, err)
	asError[*bus.OptionError](t, second(good.Wait(nil)), "ctx") //nolint:staticcheck // SA1012: what happens then
	refused, err := bus.PublishToAsync(ctx, st, "s.a", 1, bus.ExpectLastSequence(7))
	must(t, err)
	for range 2 {
		if e := asError[*bus.ConflictError](t, second(refused.Wait(ctx))); e.Actual != 1 || e.Expected != 7 {
			t.Errorf("got %+v", e)
		}
		if ack, err := good.Wait(ctx); err != nil || *ack != (bus.Ack{Stream: "S", Sequence: 1}) {
			t.Errorf("got %+v, %v", ack, err)
		}
	}
	must(t, b.Close())
	isError(t, async(ctx, "s.a", 1), bus.ErrClosed)
	if n := sequence(t, good); n != 1 {
		t.Errorf("got %d", n)
	}
	for _, n := range []int{-1, 1<<16 + 1} {
		e := asError[*bus.OptionError](t, second(bus.New(bus.WithAsyncBuffer(bus.AsyncBuffer{Window: n}))), "WithAsyncBuffer", "65536")
		if e.Value != fmt.Sprint(n) {
			t.Errorf("got %+v", e)
		}
	}
}

// A value may be changed after the call, even where its bytes are the payload and
// have to be sent again.
func TestPublishToAsyncKeepsWhatItWasGiven(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S"})
		silence(t, b, st)
		v := []byte("before")
		f, err := bus.PublishToAsync(t.Context(), st, "S", v, bus.AutoID())
		must(t, err)
		copy(v, "AFTER!")
		declare(t, b, bus.StreamConfig{Name: "S"})
		sequence(t, f)
		if got := messagesOf(t, b, "S")[1]; got != "before" {
			t.Errorf("stored %q", got)
		}
	})
}

// Close waits for what was accepted, and tells how much may not be stored.
func TestCloseWaitsForPublishToAsync(t *testing.T) {
	t.Parallel()
	t.Run("stored", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		b := openOn(t, dir)
		futures := storeAsync(t, declare(t, b, bus.StreamConfig{Name: "S"}), "S", 0, 500)
		must(t, b.Close())
		for i, f := range futures {
			if !isDone(f) || sequence(t, f) != uint64(i+1) {
				t.Fatalf("message %d is not done", i)
			}
		}
		mustHold(t, openOn(t, dir), "S", 1, 500)
	})
	for _, tc := range []struct {
		name    string
		timeout time.Duration
		took    time.Duration
	}{
		{"until nobody waits for the answers", 5 * time.Second, 5 * time.Second},
		{"until the drain timeout is used up", time.Hour, 30 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, func(t *testing.T, _ *bus.Bus) {
				b := ownBus(t, bus.WithTimeout(tc.timeout), bus.WithDrainTimeout(30*time.Second))
				st := declare(t, b, bus.StreamConfig{Name: "S"})
				must(t, second(storeAsync(t, st, "S", 0, 1)[0].Wait(t.Context()))) // so later ones do not wait for an answer
				silence(t, b, st)
				futures := append(storeAsync(t, st, "S", 0, 2), storeAsync(t, st, "S", 2, 4, bus.AutoID())...)
				began := time.Now()
				if e := asError[*bus.UnsentError](t, b.Close(), "4 messages"); e.Messages != 4 {
					t.Errorf("got %+v", e)
				}
				if took := time.Since(began); took != tc.took {
					t.Errorf("it took %v", took)
				}
				for _, f := range futures {
					isError(t, second(f.Wait(t.Context())), bus.ErrUnknownOutcome)
				}
			})
		})
	}
}

// When the connection is lost, what has an ID and no answer goes over the next one,
// before what was published meanwhile; of the rest nobody knows.
func TestPublishToAsyncOverAReconnect(t *testing.T) {
	t.Parallel()
	b, home, r, events := remote(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
	storeRange(t, st, "S", 0, 1)
	r.deaf.Store(true)
	named := storeAsync(t, st, "S", 1, 4, bus.AutoID())
	plain := storeAsync(t, st, "S", 4, 6)
	eventually(t, "the messages are stored", func() bool { return streamInfo(t, home, "S").State.Msgs == 6 })
	r.cut(true)
	r.deaf.Store(false)
	awaitEvent(t, events, event.Disconnected)
	for _, f := range plain {
		isError(t, second(f.Wait(t.Context())), bus.ErrUnknownOutcome, "MsgID or AutoID")
	}
	later := append(storeAsync(t, st, "S", 6, 8), storeAsync(t, st, "S", 8, 10, bus.AutoID())...)
	for _, f := range append(named, later...) {
		if isDone(f) {
			t.Error("there is an outcome without a connection")
		}
	}
	r.cut(false)
	for i, f := range named {
		if ack, err := f.Wait(t.Context()); err != nil || *ack != (bus.Ack{Stream: "S", Sequence: uint64(i + 2), Duplicate: true}) {
			t.Errorf("got %+v, %v", ack, err)
		}
	}
	for i, f := range later {
		if n := sequence(t, f); n != uint64(i+7) {
			t.Errorf("message %d has the sequence %d", i, n)
		}
	}
	for seq, data := range messagesOf(t, home, "S") {
		if data != fmt.Sprint(seq-1) {
			t.Errorf("%d is %s", seq, data)
		}
	}
}

// The connection is lost again and again while messages with an ID are published:
// each is stored once.
func TestPublishToAsyncOverManyReconnects(t *testing.T) {
	t.Parallel()
	b, home, r, _ := remote(t, bus.WithTimeout(time.Minute), bus.WithAsyncBuffer(bus.AsyncBuffer{Window: 50}))
	st := declare(t, b, bus.StreamConfig{Name: "S", Storage: bus.MemoryStorage})
	var futures []*bus.Future
	for i := range 1000 {
		futures = append(futures, storeAsync(t, st, "S", i, i+1, bus.AutoID())...)
		if i%200 == 199 {
			r.cut(false)
		}
	}
	got := map[uint64]bool{}
	for _, f := range futures {
		got[sequence(t, f)] = true
	}
	if len(got) != len(futures) {
		t.Errorf("%d different sequences", len(got))
	}
	mustHold(t, home, "S", 1, 1000)
}

// Many publish while the bus ends. Each message has an outcome, and what was
// acknowledged is what is stored.
func TestCloseUnderPublishToAsync(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openOn(t, dir, bus.WithAsyncBuffer(bus.AsyncBuffer{Window: 16}), bus.WithSync(bus.SyncEvery(time.Minute)))
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	var mu sync.Mutex
	var futures []*bus.Future
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				f, err := bus.PublishToAsync(t.Context(), st, "S", 1)
				if errors.Is(err, bus.ErrClosed) {
					return
				}
				must(t, err)
				mu.Lock()
				futures = append(futures, f)
				mu.Unlock()
			}
		})
	}
	eventually(t, "many are published", func() bool { mu.Lock(); defer mu.Unlock(); return len(futures) > 300 })
	must(t, b.Close())
	wg.Wait()
	for _, f := range futures {
		sequence(t, f)
	}
	mustHold(t, openOn(t, dir), "S", 1, uint64(len(futures)))
}

// The largest buffer that can be asked for can be had.
func TestLargestAsyncBuffer(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithAsyncBuffer(bus.AsyncBuffer{Size: 1 << 20}))
	h, got := collect[int](1)
	must(t, second(bus.Subscribe(b, "a", h)))
	must(t, bus.PublishAsync(t.Context(), b, "a", 7))
	if v := receive(t, got); v != 7 {
		t.Errorf("got %d", v)
	}
}
