package telemetry

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// A Quantiles' buckets are log-linear: 2^subBits equal steps in each power of
// two. The unit is a power of two as well, so that finding a bucket is two
// shifts. 256 buckets reach 2^42 ns, about 73 minutes, in 2 KiB; one more is for
// what is longer.
const (
	unitBits   = 8 // 256 ns, the width of the smallest buckets
	subBits    = 3
	subBuckets = 1 << subBits
	buckets    = 256 + 1
	lastBucket = buckets - 1
)

// Quantiles is a lock-free histogram of durations. The zero value is ready to
// use and costs one pointer until the first Observe, then about 2 KiB. All
// methods are safe for concurrent use. It must not be copied after first use.
//
// Quantiles are exact to 6 %, or to 128 ns below 2 µs; Max is exact. Durations
// above 73 minutes count as Max.
type Quantiles struct {
	h atomic.Pointer[histogram]
}

type histogram struct {
	max    atomic.Int64
	counts [buckets]atomic.Uint64
}

// Summary is what a Quantiles saw since it was made.
type Summary struct {
	Count         int64         // observations
	P50, P90, P99 time.Duration // the smallest duration not exceeded by that share of them
	Max           time.Duration // the longest
}

// Observe records d. A negative d counts as 0.
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

// Summary returns the quantiles of all that was observed, and the zero Summary
// before the first observation. Observations made during the call may be
// counted or not.
func (q *Quantiles) Summary() Summary {
	h := q.h.Load()
	if h == nil {
		return Summary{}
	}
	return h.summary()
}

func (q *Quantiles) allocate() *histogram {
	h := new(histogram)
	if q.h.CompareAndSwap(nil, h) {
		return h
	}
	return q.h.Load()
}

func (h *histogram) raiseMax(d int64) {
	for old := h.max.Load(); d > old; old = h.max.Load() {
		if h.max.CompareAndSwap(old, d) {
			return
		}
	}
}

func (h *histogram) summary() Summary {
	var counts [buckets]uint64
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

// quantile returns the duration that stands for the rank-th smallest one.
func quantile(counts *[buckets]uint64, rank uint64) time.Duration {
	var seen uint64
	for i, n := range counts {
		if seen += n; seen >= rank {
			return bucketValue(i)
		}
	}
	return math.MaxInt64
}

func bucketOf(d time.Duration) int {
	u := uint64(d) >> unitBits
	if u < subBuckets {
		return int(u)
	}
	shift := bits.Len64(u) - 1 - subBits
	return min((shift+1)<<subBits+int(u>>shift)&(subBuckets-1), lastBucket)
}

// bucketValue returns what stands for bucket i: the value whose greatest
// relative error over the bucket is least, 1/17 with eight steps to a power of
// two, or the middle where buckets start at 0. The last bucket is open, so its
// value is left to the caller's maximum.
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

func bucketStart(i int) float64 {
	steps := subBuckets + i&(subBuckets-1)
	return math.Ldexp(float64(steps), i>>subBits-1+unitBits)
}
