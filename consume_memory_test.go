package bus_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
)

// The tests of this file measure the memory of a process, so each has one of its
// own. Streams are on disk: what lies there is not to be in memory as well.

// heapInUse is what the program keeps, in MiB.
func heapInUse() float64 {
	var m runtime.MemStats
	for range 3 { // finalizers, and what pools let go of in two cycles
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// fill stores n messages with a payload of 100 bytes on subj.
func fill(t testing.TB, b *bus.Bus, subj string, n int) {
	t.Helper()
	payload := make([]byte, 100)
	js := b.JetStream()
	for range n {
		_, err := js.PublishAsync(subj, payload, jetstream.WithStallWait(patience))
		must(t, err)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(10 * patience):
		t.Fatal("not all was stored")
	}
}

// Messages that wait an hour for their next attempt are in nobody's way and in
// nobody's memory.
func TestManyMessagesThatWaitLong(t *testing.T) {
	t.Parallel()
	if runAsChild(t) {
		return
	}
	n := int64(underRace(4000, 50_000))
	b := openOn(t, t.TempDir(), bus.WithSync(bus.SyncEvery(time.Minute)), bus.WithLogger(silent()))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	fill(t, b, "s.bad", int(n))
	before := heapInUse()

	var failed atomic.Int64
	good := make(chan struct{}, 1)
	c, err := bus.Consume(t.Context(), st, "d", "s.>", func(_ context.Context, m *bus.Msg[[]byte]) error {
		if m.Subject == "s.good" {
			good <- struct{}{}
			return nil
		}
		failed.Add(1)
		return bus.RetryAfter(time.Hour, errors.New("not now"))
	}, bus.Concurrency(8))
	must(t, err)
	for failed.Load() < n {
		receiveTick(t)
	}
	_, err = bus.PublishTo(t.Context(), st, "s.good", []byte("x"))
	must(t, err)
	receive(t, good)
	info, err := b.JetStream().Consumer(t.Context(), "S", "d")
	must(t, err)
	if waiting := info.CachedInfo().NumAckPending; waiting > 1000 {
		t.Errorf("%d messages are still unfinished for the consumer", waiting)
	}
	more := heapInUse() - before
	t.Logf("%d messages that wait for an hour: %.1f MiB more than before", n, more)
	if more > 32 {
		t.Errorf("they take %.1f MiB, want less than 32", more)
	}
	must(t, c.Drain(t.Context()))
	if got := failed.Load(); got != n {
		t.Errorf("%d attempts at %d messages", got, n)
	}
}

// receiveTick waits a moment, in a test that waits for much work.
func receiveTick(t testing.TB) {
	t.Helper()
	tick := time.NewTimer(10 * time.Millisecond)
	defer tick.Stop()
	select {
	case <-tick.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// A long backlog stays where it is, and costs its consumer nothing.
func TestManyMessagesThatWaitForAConsumer(t *testing.T) {
	t.Parallel()
	if runAsChild(t) {
		return
	}
	n := underRace(20_000, 1_000_000)
	b := openOn(t, t.TempDir(), bus.WithSync(bus.SyncEvery(time.Minute)), bus.WithMaxStore(4<<30), bus.WithLogger(silent()))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	idle := heapInUse()
	fill(t, b, "s.a", n)
	var handled atomic.Int64
	release := make(chan struct{})
	enough := make(chan struct{})
	c, err := bus.Consume(t.Context(), st, "d", "s.>", func(context.Context, *bus.Msg[[]byte]) error {
		if handled.Add(1) == 1000 {
			close(enough)
			<-release
		}
		return nil
	})
	must(t, err)
	receive(t, enough)
	more := heapInUse() - idle
	t.Logf("%d pending messages: %.1f MiB more than an idle bus", n, more)
	if more > 64 {
		t.Errorf("they take %.1f MiB, want less than 64", more)
	}
	close(release)
	must(t, c.Drain(t.Context()))
}

// What waits behind a failing message of its key is in S-retry, in memory only if the stream is.
// BUS_TEST_FOLLOWERS sets how many there are.
func TestManyFollowers(t *testing.T) {
	t.Parallel()
	for _, storage := range []string{"memory", "file"} {
		t.Run(storage, func(t *testing.T) {
			t.Parallel()
			if runAsChild(t) {
				return
			}
			n := numberFromEnv(t, "BUS_TEST_FOLLOWERS", 3000)
			opts := []bus.Option{bus.WithMaxMemory(1 << 30), bus.WithLogger(silent())}
			if storage == "file" {
				opts = append(opts, bus.WithStoreDir(t.TempDir()), bus.WithSync(bus.SyncEvery(time.Minute)))
			}
			b := ownBus(t, opts...)
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
			fill(t, b, "s.stuck", n)
			before := heapInUse()
			c, err := bus.Consume(t.Context(), st, "d", "s.>", func(context.Context, *bus.Msg[[]byte]) error {
				return bus.RetryAfter(time.Hour, errNo)
			}, bus.KeyBySubject())
			must(t, err)
			for streamInfo(t, b, "S-retry").State.Msgs < uint64(n-roomFor) {
				receiveTick(t)
			}
			more := heapInUse() - before
			t.Logf("%d followers in %s: %.1f MiB more than before", n, storage, more)
			if more > 64 {
				t.Errorf("they take %.1f MiB, want less than 64", more)
			}
			must(t, c.Drain(t.Context()))
		})
	}
}
