package telemetry

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// The buckets of a Quantiles are log-linear: each power of two has 2^subBits equal steps. The unit is
// a power of two too, so finding a bucket takes two shifts. 256 buckets reach 2^42 ns, about 73
// minutes, in 2 KiB. One more bucket is for longer durations.
const (
	unitBits    = 8 // 256 ns, the width of the smallest buckets
	subBits     = 3
	subBuckets  = 1 << subBits
	bucketCount = 256 + 1
	lastBucket  = bucketCount - 1
)

// Quantiles is a lock-free histogram of durations. It has the size of a pointer until the first
// Observe, and then about 2 KiB. The zero value is ready to use. It must not be copied after the
// first use. Safe for concurrent use.
//
// The error of a quantile is at most 6 %, or 128 ns below 2 µs. Max is exact. A duration above 73
// minutes counts as Max.
type Quantiles struct {
	h atomic.Pointer[histogram]
}

// histogram has the counts of a Quantiles.
type histogram struct {
	max    atomic.Int64
	counts [bucketCount]atomic.Uint64
}

// Summary is the summary of all durations of a Quantiles.
type Summary struct {
	Count         int64         // number of durations
	P50, P90, P99 time.Duration // that share of the durations is not longer
	Max           time.Duration // the longest duration
}

// Observe adds d. A negative d counts as 0.
func (q *Quantiles) Observe(d time.Duration) {
	h := q.h.Load()
	if h == nil {
		h = q.allocate()
	}
	d = max(d, 0)
	h.counts[bucketOf(d)].Add(1)
	if int64(d) > h.max.Load() {
		h.raiseMax(int64(d))
	}
}

// Summary returns the summary. Before the first Observe it is zero. Durations that are added during
// the call may be included or not.
func (q *Quantiles) Summary() Summary {
	h := q.h.Load()
	if h == nil {
		return Summary{}
	}
	return h.summary()
}

// allocate makes the histogram at the first Observe.
func (q *Quantiles) allocate() *histogram {
	h := new(histogram)
	if q.h.CompareAndSwap(nil, h) {
		return h
	}
	return q.h.Load()
}

// raiseMax sets max to d if d is larger.
func (h *histogram) raiseMax(d int64) {
	for old := h.max.Load(); d > old; old = h.max.Load() {
		if h.max.CompareAndSwap(old, d) {
			return
		}
	}
}

// summary computes the quantiles from a copy of the counts.
func (h *histogram) summary() Summary {
	var counts [bucketCount]uint64
	var total uint64
	for i := range counts {
		counts[i] = h.counts[i].Load()
		total += counts[i]
	}
	if total == 0 {
		return Summary{}
	}
	longest := time.Duration(h.max.Load())
	at := func(share float64) time.Duration {
		return min(quantile(&counts, uint64(math.Ceil(share*float64(total)))), longest)
	}
	return Summary{Count: int64(total), P50: at(0.50), P90: at(0.90), P99: at(0.99), Max: longest}
}

// quantile returns the approximate duration with that rank, counted from the smallest.
func quantile(counts *[bucketCount]uint64, rank uint64) time.Duration {
	var seen uint64
	for i, n := range counts {
		if seen += n; seen >= rank {
			return bucketValue(i)
		}
	}
	return math.MaxInt64
}

// bucketOf returns the bucket of d.
func bucketOf(d time.Duration) int {
	u := uint64(d) >> unitBits
	if u < subBuckets {
		return int(u)
	}
	shift := bits.Len64(u) - 1 - subBits
	return min((shift+1)<<subBits+int(u>>shift)&(subBuckets-1), lastBucket)
}

// bucketValue returns the value for bucket i. It has the smallest maximal relative error over the
// bucket, which is 1/17 with eight steps in a power of two. The value of the lowest buckets is
// their middle. The last bucket has no upper end, so the caller uses the maximum instead.
func bucketValue(i int) time.Duration {
	if i == lastBucket {
		return math.MaxInt64
	}
	if i < subBuckets {
		return time.Duration(i<<unitBits + 1<<(unitBits-1))
	}
	low, high := bucketStart(i), bucketStart(i+1)
	return time.Duration(2 / (1/low + 1/high))
}

// bucketStart returns the lower end of bucket i in ns.
func bucketStart(i int) float64 {
	steps := subBuckets + i&(subBuckets-1)
	return math.Ldexp(float64(steps), i>>subBits-1+unitBits)
}
