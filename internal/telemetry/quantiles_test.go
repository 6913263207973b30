package telemetry_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/omnibus-go/bus/internal/telemetry"
)

// distributions of durations to try; each draws one.
var distributions = map[string]func(*rand.Rand) time.Duration{
	"uniform to 1 ms":  func(r *rand.Rand) time.Duration { return time.Duration(r.Int64N(1e6)) },
	"uniform to 10 µs": func(r *rand.Rand) time.Duration { return time.Duration(r.Int64N(1e4)) },
	"log-uniform to 1 h": func(r *rand.Rand) time.Duration {
		return time.Duration(math.Exp(r.Float64() * math.Log(float64(time.Hour))))
	},
	"exponential, mean 2 ms": func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * 2e6) },
	"two peaks": func(r *rand.Rand) time.Duration {
		return []time.Duration{3 * time.Microsecond, 5 * time.Second}[r.IntN(2)]
	},
	"powers of two": func(r *rand.Rand) time.Duration { return 1 << r.IntN(42) },
	"constant":      func(*rand.Rand) time.Duration { return 1500 * time.Microsecond },
}

func TestQuantilesAgreeWithExactSort(t *testing.T) {
	for name, draw := range distributions {
		for _, n := range []int{1, 2, 3, 10, 99, 100, 101, 5000} {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				var q telemetry.Quantiles
				r := rand.New(rand.NewPCG(uint64(n), 7))
				seen := make([]time.Duration, n)
				for i := range seen {
					seen[i] = draw(r)
					q.Observe(seen[i])
				}
				slices.Sort(seen)
				s := q.Summary()
				if s.Count != int64(n) || s.Max != seen[n-1] {
					t.Errorf("count %d, max %v, want %d, %v", s.Count, s.Max, n, seen[n-1])
				}
				for share, got := range map[float64]time.Duration{0.5: s.P50, 0.9: s.P90, 0.99: s.P99} {
					wantNear(t, share, got, seen[int(math.Ceil(share*float64(n)))-1])
				}
				if s.P50 > s.P90 || s.P90 > s.P99 || s.P99 > s.Max {
					t.Errorf("not ascending: %+v", s)
				}
			})
		}
	}
}

func wantNear(t *testing.T, share float64, got, want time.Duration) {
	t.Helper()
	tolerance := max(128*time.Nanosecond, time.Duration(0.06*float64(want)))
	if (got - want).Abs() > tolerance {
		t.Errorf("quantile %v is %v, want %v ± %v", share, got, want, tolerance)
	}
}

// Every duration alone, around all bucket borders: it pins the whole range.
func TestQuantilesOfOneDuration(t *testing.T) {
	for exp := range 42 {
		for _, step := range []float64{1, 1.06, 1.124, 1.125, 1.126, 1.5, 1.874, 1.876, 1.999} {
			d := time.Duration(math.Ldexp(step, exp))
			var q telemetry.Quantiles
			q.Observe(d)
			q.Observe(48 * time.Hour) // so that Max does not help
			wantNear(t, 0.5, q.Summary().P50, d)
		}
	}
}

func TestQuantilesAtTheEnds(t *testing.T) {
	var q telemetry.Quantiles
	if s := q.Summary(); s != (telemetry.Summary{}) {
		t.Errorf("summary of nothing: %+v", s)
	}
	q.Observe(-time.Second)
	if s := q.Summary(); s != (telemetry.Summary{Count: 1}) {
		t.Errorf("summary of a negative duration: %+v", s)
	}
	q = telemetry.Quantiles{}
	q.Observe(math.MaxInt64)
	q.Observe(math.MaxInt64)
	if s := q.Summary(); s.P50 != math.MaxInt64 || s.Max != math.MaxInt64 {
		t.Errorf("summary of the longest duration: %+v", s)
	}
}

func TestQuantilesConcurrently(t *testing.T) {
	var q telemetry.Quantiles
	const workers, each = 8, 2000
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				q.Observe(time.Duration(w*each+i) * time.Microsecond)
				if i%500 == 0 {
					q.Summary()
				}
			}
		})
	}
	wg.Wait()
	s := q.Summary()
	if s.Count != workers*each || s.Max != (workers*each-1)*time.Microsecond {
		t.Errorf("lost observations: %+v", s)
	}
}

func TestQuantilesAreCheap(t *testing.T) {
	if size := unsafe.Sizeof(telemetry.Quantiles{}); size != unsafe.Sizeof(uintptr(0)) {
		t.Errorf("an idle Quantiles takes %d bytes", size)
	}
	var q telemetry.Quantiles
	q.Observe(0)
	if n := testing.AllocsPerRun(100, func() { q.Observe(time.Millisecond) }); n != 0 {
		t.Errorf("Observe allocates %v times", n)
	}
	const n = 100
	var before, after runtime.MemStats
	used := make([]telemetry.Quantiles, n)
	runtime.ReadMemStats(&before)
	for i := range used {
		used[i].Observe(1)
	}
	runtime.ReadMemStats(&after)
	if bytes := (after.TotalAlloc - before.TotalAlloc) / n; bytes > 4<<10 {
		t.Errorf("a Quantiles in use takes %d bytes", bytes)
	}
}

func BenchmarkQuantilesObserve(b *testing.B) {
	var q telemetry.Quantiles
	b.ReportAllocs()
	d := time.Duration(0)
	for b.Loop() {
		d += 977
		q.Observe(d & (1<<30 - 1))
	}
}

func BenchmarkQuantilesSummary(b *testing.B) {
	var q telemetry.Quantiles
	q.Observe(time.Millisecond)
	b.ReportAllocs()
	for b.Loop() {
		q.Summary()
	}
}
