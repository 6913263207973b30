package bus_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
)

// The tests of this file start, stop and crowd buses as no program should.
// main_test.go looks for goroutines that they leave behind.

type ping struct{ From, N int }

const pings bus.Subject[ping] = "stress.ping"

// TestStartStopStress is 10 goroutines that start, use and close 50 buses each.
// Nothing may stay: no goroutine, no open file, no temporary directory.
func TestStartStopStress(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	filesBefore := openFiles(t)
	var wg sync.WaitGroup
	for g := range 10 {
		wg.Go(func() {
			for n := range 50 {
				if err := useOnce(t.Context(), ping{g, n}); err != nil {
					t.Errorf("goroutine %d, bus %d: %v", g, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if left, err := filepath.Glob(filepath.Join(temp, "omnibus-*")); err != nil || len(left) > 0 {
		t.Errorf("temporary directories were left behind: %v, %v", left, err)
	}
	if now := openFiles(t); now > filesBefore+2 { // a pipe of the runtime's own may come
		t.Errorf("%d files were open before, %d are now", filesBefore, now)
	}
}

// useOnce starts a bus, sends p through it, and closes it.
func useOnce(ctx context.Context, p ping) (err error) {
	b, err := quietBus()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	got := make(chan ping, 1)
	_, err = bus.Subscribe(b, pings, func(_ context.Context, m *bus.Msg[ping]) error {
		got <- m.Data
		return nil
	})
	if err != nil {
		return err
	}
	if err := bus.Publish(ctx, b, pings, p); err != nil {
		return err
	}
	select {
	case g := <-got:
		if g != p {
			return fmt.Errorf("published %v, got %v", p, g)
		}
		return nil
	case <-time.After(stuck):
		return fmt.Errorf("%v did not arrive", p)
	}
}

func TestManyBuses(t *testing.T) {
	before := runtime.NumGoroutine()
	buses := startMany(t, underRace(50, 200))
	t.Logf("%d goroutines for a bus", (runtime.NumGoroutine()-before)/len(buses))
	useMany(t, buses)
	closeMany(t, buses)
}

// startMany starts n buses, a few at a time.
func startMany(t *testing.T, n int) []*bus.Bus {
	t.Helper()
	buses := make([]*bus.Bus, n)
	errs := make([]error, n)
	eachOf(n, func(i int) { buses[i], errs[i] = quietBus() })
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return buses
}

// useMany publishes on every bus and sees that each message arrives there and
// nowhere else.
func useMany(t *testing.T, buses []*bus.Bus) {
	t.Helper()
	var foreign atomic.Int64
	arrived := make(chan int, len(buses))
	eachOf(len(buses), func(i int) {
		_, err := bus.Subscribe(buses[i], pings, func(_ context.Context, m *bus.Msg[ping]) error {
			if m.Data.From != i {
				foreign.Add(1)
			}
			arrived <- i
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	eachOf(len(buses), func(i int) {
		if err := bus.Publish(t.Context(), buses[i], pings, ping{From: i}); err != nil {
			t.Error(err)
		}
	})
	for range buses {
		wait(t, arrived, "a message on each bus")
	}
	if n := foreign.Load(); n > 0 {
		t.Errorf("%d messages came from another bus", n)
	}
}

func closeMany(t *testing.T, buses []*bus.Bus) {
	t.Helper()
	eachOf(len(buses), func(i int) {
		if err := buses[i].Close(); err != nil {
			t.Error(err)
		}
	})
}

// eachOf calls f with 0 to n-1, eight at a time.
func eachOf(n int, f func(int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// TestManyBusesInLittleMemory starts 200 buses under a memory limit of 256 MiB:
// their limits for streams are shares of it, not of the machine's memory.
func TestManyBusesInLittleMemory(t *testing.T) {
	t.Parallel()
	if runAsChild(t, "GOMEMLIMIT=256MiB") {
		return
	}
	buses := make([]*bus.Bus, underRace(50, 200))
	eachOf(len(buses), func(i int) {
		b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()))
		if err != nil {
			t.Error(err)
			return
		}
		buses[i] = b
		if err := storeOne(t.Context(), b, i); err != nil {
			t.Errorf("bus %d: %v", i, err)
		}
	})
	if t.Failed() {
		return
	}
	useMany(t, buses)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d buses: %d MiB of heap in use, %d MiB from the system, %d goroutines",
		len(buses), m.HeapInuse>>20, (m.Sys-m.HeapReleased)>>20, runtime.NumGoroutine())
	closeMany(t, buses)
}

func storeOne(ctx context.Context, b *bus.Bus, i int) error {
	st, err := b.Stream(ctx, bus.StreamConfig{Name: "S", Subjects: []string{"stored"}})
	if err != nil {
		return err
	}
	_, err = bus.PublishTo(ctx, st, "stored", ping{From: i})
	return err
}
