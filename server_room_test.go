package bus_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/testserver"
)

// fillStore publishes messages of 100 kB until the server refuses one, and returns how many it stored.
func fillStore(t *testing.T, st *bus.Stream, option string) int {
	t.Helper()
	for n := range 1000 {
		_, err := bus.PublishTo(t.Context(), st, "s.a", make([]byte, 100_000), bus.MsgID(fmt.Sprint(n)))
		if err != nil {
			e := asError[*bus.StreamError](t, err, "publish", option, "bytes", "raise the limit", "Purge")
			if e.ErrorCode != 10002 {
				t.Errorf("the number is %d", e.ErrorCode)
			}
			return n
		}
	}
	t.Fatal("the limit was never reached")
	return 0
}

// countEvents returns how many events of a kind there are.
func countEvents(events <-chan event.Event, kind event.Kind) (n int) {
	for len(events) > 0 {
		if e := <-events; e.Kind == kind {
			n++
		}
	}
	return n
}

// Without room for messages the bus says so, and dead letters still find room.
func TestStoreFull(t *testing.T) {
	t.Parallel()
	for option, opts := range map[string][]bus.Option{
		"WithMaxMemory": {bus.WithMaxMemory(2 << 20)},
		"WithMaxStore":  {bus.WithMaxStore(2 << 20), bus.WithStoreDir(t.TempDir()), bus.WithSync(bus.SyncEvery(time.Minute))},
	} {
		t.Run(option, func(t *testing.T) {
			t.Parallel()
			record, events := recordEvents()
			b := ownBus(t, append(opts, record.(bus.Option))...)
			st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Retention: bus.WorkQueueRetention})
			must(t, err)
			n := fillStore(t, st, option)
			e := nextEvent(t, events, event.StoreFull)
			hasText(t, e.Err, "no room", option, "raise the limit")
			if r := b.Health(t.Context()); r.Status != health.Degraded || len(r.Problems) != 1 || r.Problems[0].Part != "store" {
				t.Errorf("Health is %v %v", r.Status, r.Problems)
			}
			for range 10 {
				if second(bus.PublishTo(t.Context(), st, "s.a", make([]byte, 100_000))) == nil {
					t.Error("the server has taken one more message")
				}
			}
			consume(t, st, "d", "s.*", func(context.Context, *bus.Msg[[]byte]) error { return bus.Permanent(errNo) })
			eventually(t, "dead letters", func() bool {
				dead, err := st.DeadCount(t.Context(), bus.DeadFilter{})
				return err == nil && dead == n
			})
			second(st.Discard(t.Context(), bus.DeadFilter{}))
			must(t, second(bus.PublishTo(t.Context(), st, "s.a", make([]byte, 100_000))))
			if more := countEvents(events, event.StoreFull); more > 0 {
				t.Errorf("StoreFull is reported %d times more", more)
			}
		})
	}
}

// A reserve that is used up too is reported once a minute, and what waits for room goes on when
// there is some.
func TestReserveFull(t *testing.T) {
	t.Parallel()
	testserver.Bubble(t, func(t *testing.T) {
		record, events := recordEvents()
		b := bustest.New(t, bus.WithMaxMemory(1<<20), record.(bus.Option), bus.WithLogger(silent()))
		st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		must(t, err)
		n := fillStore(t, st, "WithMaxMemory")
		const durables = 6 // the reserve has 4 MiB
		for i := range durables {
			consume(t, st, fmt.Sprint("d", i), "s.*", func(context.Context, *bus.Msg[[]byte]) error { return bus.Permanent(errNo) })
		}
		time.Sleep(30 * time.Second)
		dead, err := st.DeadCount(t.Context(), bus.DeadFilter{})
		must(t, err)
		if dead == 0 || dead >= durables*n {
			t.Fatalf("%d of %d dead letters are stored", dead, durables*n)
		}
		if failed := countEvents(events, event.DeadLetterFailed); failed == 0 || failed > durables {
			t.Errorf("%d events say that a dead letter could not be stored", failed)
		}
		discarded, err := st.Discard(t.Context(), bus.DeadFilter{})
		must(t, err)
		time.Sleep(30 * time.Second)
		rest, err := st.DeadCount(t.Context(), bus.DeadFilter{})
		must(t, err)
		if discarded+rest != durables*n {
			t.Errorf("%d and %d of %d dead letters", discarded, rest, durables*n)
		}
	})
}

// Streams whose MaxBytes take the whole limit leave room for side streams, also after a restart.
func TestMaxBytesLeavesRoomForSideStreams(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() (*bus.Bus, *bus.Stream) {
		b := openOn(t, dir, bus.WithMaxStore(1<<20), bus.WithSync(bus.SyncEvery(time.Minute)))
		st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, MaxBytes: 1 << 20})
		must(t, err)
		return b, st
	}
	b, _ := open()
	err := second(b.Stream(t.Context(), bus.StreamConfig{Name: "T", Subjects: []string{"t.*"}, MaxBytes: 1}))
	asError[*bus.StreamError](t, err, `stream "T"`, "create", "MaxBytes", "WithMaxStore")
	must(t, b.Close())
	b, st := open()
	defer func() { must(t, b.Close()) }()
	must(t, second(bus.PublishTo(t.Context(), st, "s.a", 1)))
	consume(t, st, "d", "s.*", func(context.Context, *bus.Msg[int]) error { return bus.Permanent(errNo) })
	eventually(t, "a dead letter", func() bool {
		dead, err := st.DeadCount(t.Context(), bus.DeadFilter{})
		return err == nil && dead == 1
	})
}

// Messages that wait behind a failing one of their key are stored, and come back, while the
// store is full and publishers take each byte that becomes free.
func TestFollowersFindRoom(t *testing.T) {
	t.Parallel()
	for option, tc := range map[string]struct {
		opts      []bus.Option
		retention bus.Retention
	}{
		"WithMaxMemory": {[]bus.Option{bus.WithMaxMemory(2 << 20)}, bus.WorkQueueRetention},
		"WithMaxStore": {[]bus.Option{bus.WithMaxStore(2 << 20), bus.WithStoreDir(t.TempDir()), bus.WithSync(bus.SyncEvery(time.Minute))},
			bus.LimitsRetention},
	} {
		t.Run(option, func(t *testing.T) {
			t.Parallel()
			b := ownBus(t, append(tc.opts, bus.WithLogger(silent()))...)
			testFollowersFindRoom(t, b, declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Retention: tc.retention}))
		})
	}
}

func testFollowersFindRoom(t *testing.T, b *bus.Bus, st *bus.Stream) {
	const n = 1000
	other := declare(t, b, bus.StreamConfig{Name: "T", Subjects: []string{"t.*"}})
	full := func() {
		for _, size := range []int{100_000, 1000, 1} {
			for second(bus.PublishTo(t.Context(), other, "t.a", make([]byte, size))) == nil {
			}
		}
	}
	var open atomic.Bool
	var handled atomic.Int64
	consume(t, st, "d", "s.*", func(_ context.Context, m *bus.Msg[int]) error {
		if m.Data == 1 && !open.Load() {
			return errNo
		}
		handled.Add(1)
		return nil
	}, bus.KeyBySubject(), bus.Retry(bus.RetryPolicy{MaxAttempts: 1000, MinBackoff: 50 * time.Millisecond, MaxBackoff: 50 * time.Millisecond}))
	storeRange(t, st, "s.a", 1, n+1)
	full() // some are stored, and others are on their way to S-retry
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	defer func() {
		cancel()
		<-stopped
	}()
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			full()
		}
	}()
	eventually(t, "messages in S-retry", func() bool { return streamInfo(t, b, "S-retry").State.Msgs > 50 })
	open.Store(true)
	for handled.Load() < n { // with two cores and the race detector this takes a while
		before := handled.Load()
		eventually(t, "one more is handled", func() bool { return handled.Load() > before })
	}
}

// A limit above 2 GiB has its share in use also where an int has 32 bits.
func TestHealthOfALargeStore(t *testing.T) {
	t.Parallel()
	b := ownBus(t, bus.WithMaxMemory(3<<30), bus.WithHealthThresholds(health.Thresholds{StoreRatio: 1e-12}), bus.WithLogger(silent()))
	storeRange(t, declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}}), "s.a", 0, 1)
	unwell(t, b.Health(t.Context()), health.Degraded, "store", "of 3221225472 bytes")
}
