package telemetry

const (
	alwaysSampled = 64                 // the first messages, so that a short test sees latencies
	sampleShift   = 64 - 4             // then one in 2^4
	goldenRatio   = 0x9E3779B97F4A7C15 // 2^64 divided by the golden ratio
)

// Sampled reports whether to measure the latency of the n-th message, counted from 1. It returns true
// for the first 64 messages, and then for one in 16. The sample is uniform, so the quantiles are
// unbiased. To measure every message would cost a tenth of the time of a small message, because
// it takes two calls of time.Now.
//
// It does not return true for exactly every 16th message. Traffic often has a period, for example
// batches of 16, and then a fixed step would always measure the same part of it. A step by the
// golden ratio is as even and has no period.
func Sampled(n uint64) bool {
	return n <= alwaysSampled || (n*goldenRatio)>>sampleShift == 0
}
