package bus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
)

func TestPublishAsyncKeepsOrder(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithAsyncBuffer(bus.AsyncBuffer{Size: 7}))
	const n = 2000
	h, got := collect[int](n)
	_, err := bus.Subscribe(b, "async", h)
	must(t, err)
	for i := range n {
		must(t, bus.PublishAsync(t.Context(), b, "async", i))
	}
	for i := range n {
		if v := receive(t, got); v != i {
			t.Fatalf("got %d, want %d", v, i)
		}
	}
	eventually(t, "the buffer is empty", func() bool { return b.Stats().AsyncPending == 0 })
}

// The value may be changed after the call, however its type aliases the payload.
func TestPublishAsyncOwnsTheValue(t *testing.T) {
	t.Parallel()
	t.Run("bytes", func(t *testing.T) {
		t.Parallel()
		v := []byte(`"aaaa"`)
		changedAfterPublishAsync(t, v, v)
	})
	t.Run("named bytes", func(t *testing.T) {
		t.Parallel()
		v := blob(`"aaaa"`)
		changedAfterPublishAsync(t, v, v)
	})
	t.Run("raw JSON", func(t *testing.T) {
		t.Parallel()
		v := json.RawMessage(`"aaaa"`)
		changedAfterPublishAsync(t, v, v)
	})
	t.Run("pointer to raw JSON", func(t *testing.T) {
		t.Parallel()
		v := json.RawMessage(`"aaaa"`)
		changedAfterPublishAsync(t, &v, v)
	})
	t.Run("raw JSON as any", func(t *testing.T) {
		t.Parallel()
		v := json.RawMessage(`"aaaa"`)
		changedAfterPublishAsync[any](t, v, v)
	})
	t.Run("bytes with an option", func(t *testing.T) {
		t.Parallel()
		v := []byte(`"aaaa"`)
		changedAfterPublishAsync(t, v, v, bus.WithHeader("A", "b"))
	})
}

// changedAfterPublishAsync publishes v while the sender is held up, overwrites
// memory, which belongs to v, and checks what was sent.
func changedAfterPublishAsync[T any](t *testing.T, v T, memory []byte, opts ...bus.PublishOption) {
	t.Helper()
	b, server := stalledBus(t, bus.AsyncBuffer{Size: 1})
	want := string(memory)
	must(t, bus.PublishAsync(t.Context(), b, "second", v, opts...))
	copy(memory, bytes.Repeat([]byte("X"), len(memory)))
	server.send("PONG\r\n")
	server.expect("second")
	if got := server.line(); !strings.HasPrefix(got, "NATS/1.0") && got != want {
		t.Errorf("sent %s, want %s", got, want)
	} else if got != want {
		server.expect(want) // the payload comes after the header
	}
	server.answerPings()
}

// While the server does not confirm, the buffer fills up.
func TestPublishAsyncFull(t *testing.T) {
	t.Parallel()
	t.Run("NoWait", func(t *testing.T) {
		t.Parallel()
		b, server := stalledBus(t, bus.AsyncBuffer{Size: 2, NoWait: true})
		for i := range 2 {
			must(t, bus.PublishAsync(t.Context(), b, "a", i))
		}
		if n := b.Stats().AsyncPending; n != 2 {
			t.Errorf("%d are pending, want 2", n)
		}
		err := bus.PublishAsync(t.Context(), b, "a", 2)
		isError(t, err, bus.ErrBufferFull, "WithAsyncBuffer")
		server.answerPings()
	})
	t.Run("the wait ends with ctx", func(t *testing.T) {
		t.Parallel()
		b, server := stalledBus(t, bus.AsyncBuffer{Size: 1})
		must(t, bus.PublishAsync(t.Context(), b, "a", 0))
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { result <- bus.PublishAsync(ctx, b, "a", 1) }()
		cancel()
		isError(t, receive(t, result), context.Canceled)
		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		isError(t, bus.PublishAsync(ctx, b, "a", 1), bus.ErrTimeout)
		server.answerPings()
	})
	t.Run("the wait ends with room", func(t *testing.T) {
		t.Parallel()
		b, server := stalledBus(t, bus.AsyncBuffer{Size: 1})
		must(t, bus.PublishAsync(t.Context(), b, "a", 0))
		result := make(chan error)
		go func() { result <- bus.PublishAsync(t.Context(), b, "a", 1) }()
		server.answerPings()
		must(t, receive(t, result))
	})
	t.Run("the wait ends with the bus", func(t *testing.T) {
		t.Parallel()
		b, _ := stalledBus(t, bus.AsyncBuffer{Size: 1})
		must(t, bus.PublishAsync(t.Context(), b, "a", 0))
		result := make(chan error)
		go func() { result <- bus.PublishAsync(t.Context(), b, "a", 1) }()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		unsent := asError[*bus.UnsentError](t, b.Shutdown(ctx))
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("Shutdown took %v, its context 50ms", took)
		}
		// Those that are sent and not confirmed, the one in the buffer, and maybe
		// the one that waited: it may have been taken in at the last moment.
		err := receive(t, result)
		want := unconfirmed + 1
		if err == nil {
			want++
		} else {
			isError(t, err, bus.ErrClosed)
		}
		if unsent.Messages != want {
			t.Errorf("%d are unsent, want %d", unsent.Messages, want)
		}
	})
}

// unconfirmed is how many messages a small PublishAsync sends without hearing from
// the server.
const unconfirmed = 100

// stalledBus returns a bus whose asynchronous publisher waits for a flush that
// the server does not answer. It has sent unconfirmed messages of one byte.
func stalledBus(t *testing.T, a bus.AsyncBuffer) (*bus.Bus, *fakeServer) {
	t.Helper()
	server := newFakeServer(t)
	b, err := bus.Connect(t.Context(), server.url(), bus.WithLogger(silent()), bus.WithAsyncBuffer(a))
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	for i := range int64(unconfirmed) {
		must(t, bus.PublishAsync(t.Context(), b, "stalls", 0))
		eventually(t, "it is sent", func() bool { return b.Stats().Published == i+1 })
	}
	server.expect("PING")
	return b, server
}

// In an idle bus nothing keeps a message in the buffer: it goes out at once.
func TestPublishAsyncDoesNotLinger(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		h, got := collect[int](1)
		_, err := bus.Subscribe(b, "a", h)
		must(t, err)
		began := time.Now()
		must(t, bus.PublishAsync(t.Context(), b, "a", 1))
		synctest.Wait()
		if len(got) != 1 || time.Since(began) != 0 {
			t.Errorf("%d came after %v, want 1 at once", len(got), time.Since(began))
		}
	})
}

// Close sends what the buffer holds.
func TestCloseFlushesPublishAsync(t *testing.T) {
	t.Parallel()
	server := bustest.New(t, anyPort())
	h, got := collect[int](5000)
	_, err := bus.Subscribe(server, "a", h)
	must(t, err)
	b := connectTo(t, server)
	for i := range 4000 {
		must(t, bus.PublishAsync(t.Context(), b, "a", i))
	}
	must(t, b.Close())
	for i := range 4000 {
		if v := receive(t, got); v != i {
			t.Fatalf("got %d, want %d", v, i)
		}
	}
	isError(t, bus.PublishAsync(t.Context(), b, "a", 1), bus.ErrClosed)
}

// What is in the buffer when the bus closes still reaches its own subscribers.
func TestCloseHandlesItsOwnPublishAsync(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	h, got := collect[int](5000)
	_, err := bus.Subscribe(b, "a", h)
	must(t, err)
	for i := range 4000 {
		must(t, bus.PublishAsync(t.Context(), b, "a", i))
	}
	must(t, b.Close())
	if len(got) != 4000 {
		t.Errorf("%d of 4000 messages were handled", len(got))
	}
}

// Flush covers what is in the buffer.
func TestFlushSendsPublishAsync(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	must(t, b.Flush(t.Context()))
	for i := range 1000 {
		must(t, bus.PublishAsync(t.Context(), b, "a", i))
		if i%100 != 0 {
			continue
		}
		must(t, b.Flush(t.Context()))
		if s := b.Stats(); s.Published != int64(i+1) || s.AsyncPending != 0 {
			t.Fatalf("after %d messages the statistics are %+v", i+1, s)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	isError(t, b.Flush(ctx), context.Canceled)
}

// A message that the connection refuses is an event, and Close says how many.
func TestPublishAsyncReportsWhatItCannotSend(t *testing.T) {
	t.Parallel()
	server := bustest.New(t, anyPort())
	record, events := recordEvents()
	b := connectTo(t, server, record)
	b.Conn().Close()
	nextEvent(t, events, event.Disconnected)
	nextEvent(t, events, event.ConnectionClosed)
	for range 3 {
		must(t, bus.PublishAsync(t.Context(), b, "a.b", 1))
	}
	for range 3 {
		e := nextEvent(t, events, event.PublishFailed)
		if e.Subject != "a.b" {
			t.Errorf("the event is about %q", e.Subject)
		}
		isError(t, e.Err, bus.ErrClosed)
	}
	err := b.Close()
	if unsent := asError[*bus.UnsentError](t, err, "3 messages"); unsent.Messages != 3 {
		t.Errorf("%d unsent, want 3", unsent.Messages)
	}
	if n := b.Stats().PublishFailed; n != 3 {
		t.Errorf("PublishFailed is %d, want 3", n)
	}
}

func TestPublishAsyncFromManyGoroutines(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithAsyncBuffer(bus.AsyncBuffer{Size: 16}))
	const writers, each = 8, 200
	next := map[int]int{}
	done := make(chan struct{})
	total := 0
	_, err := bus.Subscribe(b, "a.*", func(_ context.Context, m *bus.Msg[[2]int]) error {
		if who, i := m.Data[0], m.Data[1]; next[who] != i {
			t.Errorf("writer %d: got %d, want %d", who, i, next[who])
		}
		next[m.Data[0]]++
		if total++; total == writers*each {
			close(done)
		}
		return nil
	})
	must(t, err)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := bus.PublishAsync(t.Context(), b, bus.Subject[[2]int]("a.*").At(strconv.Itoa(w)), [2]int{w, i}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	receive(t, done)
}
