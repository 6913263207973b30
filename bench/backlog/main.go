// Command backlog handles many messages of a few keys, of which some fail, and measures what that costs
// beside the same messages without failures, in the same process:
//
//	go run ./backlog -keys 20
//
// It says how many became dead letters, how many came out of order, how long the keys that do not
// fail took and how long all did, and how far the heap rose above that of before.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/omnibus-go/bus"
)

var (
	messages = flag.Int("n", 100_000, "messages")
	keys     = flag.Int("keys", 20, "keys")
	failing  = flag.Int("failing", -1, "keys of which 5 % of the messages fail, each one to three times; -1 for all")
	stuck    = flag.Int("stuck", 0, "keys whose first message fails until the others are done, instead of those")
	batch    = flag.Int("batch", 0, "messages in a batch; 0 for one at a time")
	work     = flag.Duration("work", 0, "how long a message takes")
	backoff  = flag.Duration("backoff", time.Millisecond, "the first one; it doubles up to eight times as long")
	onDisk   = flag.Bool("disk", false, "streams on disk, not in memory")
	rounds   = flag.Int("rounds", 1, "rounds, each without failures and then with them")
	alone    = flag.Bool("alone", false, "only with failures")
	cpu      = flag.String("cpuprofile", "", "a file for the profile of the runs with failures")
	allocs   = flag.String("allocprofile", "", "a file for the profile of all allocations")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	opts := []bus.Option{bus.WithSlog(slog.New(slog.NewTextHandler(io.Discard, nil))), bus.WithMaxMemory(1 << 30)}
	if *onDisk {
		dir, err := os.MkdirTemp("", "backlog")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		opts = append(opts, bus.WithStoreDir(dir), bus.WithSync(bus.SyncEvery(time.Minute)))
	}
	b, err := bus.New(opts...)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	for i := range *rounds {
		if err := round(b, i); err != nil {
			return err
		}
	}
	if *allocs != "" {
		return writeAllocs(*allocs)
	}
	return nil
}

// round measures both kinds of a run, or only that with failures.
func round(b *bus.Bus, i int) error {
	var base time.Duration
	if !*alone {
		r := &backlog{name: fmt.Sprintf("N%d", i)}
		if err := r.measure(b); err != nil {
			return err
		}
		base = r.others
		r.print("without failures")
	}
	r := &backlog{name: fmt.Sprintf("F%d", i), fails: true}
	if *cpu != "" {
		f, err := os.Create(*cpu)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		r.profile = f
	}
	if err := r.measure(b); err != nil {
		return err
	}
	r.print("with failures")
	if base > 0 {
		fmt.Printf("ratio of the time of the keys that do not fail: %.2f\n", float64(r.others)/float64(base))
	}
	return nil
}

// backlog is one run.
type backlog struct {
	name    string
	fails   bool
	profile io.Writer

	mu         sync.Mutex
	last       map[string]uint64 // the last sequence of each key that was handled
	done       int
	healthy    int // of done: of keys that do not fail
	outOfOrder int
	failures   int
	pauses     time.Duration // the sum of the back-offs, about
	free       atomic.Bool   // what is stuck goes on
	begun      time.Time
	others     time.Duration // until all messages of keys that do not fail were handled
	all        time.Duration
	finished   chan struct{}
	dead       int
	peak, live float64
	allocs     uint64
	bytes      uint64
}

// failuresOf is how often a message fails.
func failuresOf(sequence uint64) int {
	h := sequence * 0x9E3779B97F4A7C15
	h = (h ^ h>>31) * 0xBF58476D1CE4E5B9
	if h >>= 32; h%20 == 0 {
		return 1 + int(h/20%3)
	}
	return 0
}

// failingKeys is how many keys fail, from the first.
func failingKeys() int {
	switch {
	case *stuck > 0:
		return *stuck
	case *failing < 0:
		return *keys
	}
	return *failing
}

func (r *backlog) measure(b *bus.Bus) error {
	ctx := context.Background()
	st, err := b.Stream(ctx, bus.StreamConfig{Name: r.name, Subjects: []string{r.name + ".*"}})
	if err != nil {
		return err
	}
	for i := range *messages {
		if _, err := bus.PublishToAsync(ctx, st, bus.Subject[int](fmt.Sprintf("%s.%d", r.name, i%*keys)), i); err != nil {
			return err
		}
	}
	if err := b.Flush(ctx); err != nil {
		return err
	}
	r.last, r.finished = make(map[string]uint64), make(chan struct{})
	h := watchHeap()
	if r.profile != nil {
		_ = pprof.StartCPUProfile(r.profile)
		defer pprof.StopCPUProfile()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r.begun = time.Now()
	c, err := r.consume(ctx, st)
	if err != nil {
		return err
	}
	<-r.finished
	runtime.ReadMemStats(&after)
	r.peak, r.live = h.stop()
	r.allocs, r.bytes = after.Mallocs-before.Mallocs, after.TotalAlloc-before.TotalAlloc
	if r.dead, err = st.DeadCount(ctx, bus.DeadFilter{}); err != nil {
		return err
	}
	if err := c.Drain(ctx); err != nil {
		return err
	}
	return st.Delete(ctx)
}

func (r *backlog) consume(ctx context.Context, st *bus.Stream) (*bus.Consumer, error) {
	subject := bus.Subject[int](r.name + ".*")
	retry := bus.Retry(bus.RetryPolicy{MaxAttempts: bus.Unlimited, MinBackoff: *backoff, MaxBackoff: 8 * *backoff})
	opts := []bus.ConsumeOption{bus.KeyBySubject(), bus.Concurrency(8), retry}
	if *batch > 0 {
		return bus.ConsumeBatch(ctx, st, "d", subject, r.handleBatch, append(opts, bus.BatchSize(*batch))...)
	}
	return bus.Consume(ctx, st, "d", subject, r.handle, opts...)
}

var errFails = errors.New("fails")

func (r *backlog) handle(_ context.Context, m *bus.Msg[int]) error {
	if *work > 0 {
		time.Sleep(*work)
	}
	return r.end(m)
}

// handleBatch handles the messages of each key until one fails.
func (r *backlog) handleBatch(_ context.Context, ms []*bus.Msg[int]) error {
	if *work > 0 {
		time.Sleep(*work)
	}
	var failed bus.BatchError
	behind := make(map[string]bool)
	for i, m := range ms {
		if !behind[m.Subject] {
			err := r.end(m)
			failed.Add(i, err)
			behind[m.Subject] = err != nil
		}
	}
	return failed.Err()
}

// end returns the outcome of a message, and counts it.
func (r *backlog) end(m *bus.Msg[int]) error {
	ofFailing := m.Data%*keys < failingKeys()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails && ofFailing && r.failsNow(m) {
		r.failures++
		r.pauses += min(*backoff<<min(m.Attempt-1, 3), 8**backoff) * 7 / 8
		return errFails
	}
	if m.Sequence <= r.last[m.Subject] {
		r.outOfOrder++
	}
	r.last[m.Subject] = m.Sequence
	r.done++
	if !ofFailing || failingKeys() == *keys {
		r.healthy++
	}
	if r.others == 0 && r.healthy == r.wanted() {
		r.others = time.Since(r.begun)
		r.free.Store(true)
	}
	if r.done == *messages {
		r.all = time.Since(r.begun)
		close(r.finished)
	}
	return nil
}

func (r *backlog) failsNow(m *bus.Msg[int]) bool {
	if *stuck > 0 {
		return m.Data < *stuck && !r.free.Load()
	}
	return m.Attempt <= failuresOf(m.Sequence)
}

// wanted is how many messages the keys have that do not fail; all if each fails.
func (r *backlog) wanted() (n int) {
	if failingKeys() == *keys {
		return *messages
	}
	for key := failingKeys(); key < *keys; key++ {
		n += (*messages - key + *keys - 1) / *keys
	}
	return n
}

func (r *backlog) print(what string) {
	fmt.Printf("%s: %d messages, %d keys, batches of %d, disk %t, work %v: dead %d, out of order %d, others %.2f s, all %.2f s, "+
		"%d failures with back-offs of %.1f s, heap +%.1f MiB, live +%.1f MiB, %d allocations and %d bytes a message\n",
		what, *messages, *keys, *batch, *onDisk, *work, r.dead, r.outOfOrder, r.others.Seconds(), r.all.Seconds(),
		r.failures, r.pauses.Seconds(), r.peak, r.live, r.allocs/uint64(*messages), r.bytes/uint64(*messages))
}

// heapWatch looks for the largest heap until stop.
type heapWatch struct {
	base       float64
	peak, live float64
	ends       chan struct{}
	ended      chan struct{}
}

const mebi = 1 << 20

func watchHeap() *heapWatch {
	for range 3 {
		runtime.GC()
	}
	h := &heapWatch{ends: make(chan struct{}), ended: make(chan struct{})}
	h.base, _ = heap()
	go func() {
		defer close(h.ended)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			all, live := heap()
			h.peak, h.live = max(h.peak, all), max(h.live, live)
			select {
			case <-tick.C:
			case <-h.ends:
				return
			}
		}
	}()
	return h
}

// heap returns the size of all objects, garbage included, and of those that the last collection kept,
// in MiB.
func heap() (all, live float64) {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return float64(s[0].Value.Uint64()) / mebi, float64(s[1].Value.Uint64()) / mebi
}

// stop returns how far both rose above the heap of the start.
func (h *heapWatch) stop() (peak, live float64) {
	close(h.ends)
	<-h.ended
	return h.peak - h.base, h.live - h.base
}

func writeAllocs(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return pprof.Lookup("allocs").WriteTo(f, 0)
}
