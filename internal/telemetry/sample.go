package telemetry

const (
	alwaysSampled = 64                 // the first messages, so that a short test sees its latencies
	sampleShift   = 64 - 4             // then one in 2^4
	golden        = 0x9E3779B97F4A7C15 // 2^64 divided by the golden ratio
)

// Sampled reports whether to time the n-th message, counted from 1: the first
// 64, then one in 16, which is uniform, so the quantiles stay unbiased. Timing
// all would cost a tenth of a small message: time.Now is called twice.
//
// Not exactly every 16th: traffic has a rhythm (batches of 16, a question and
// an answer), and a fixed step would time the same part of it for ever. A step
// by the golden ratio is as even and shares no period with anything.
func Sampled(n uint64) bool {
	return n <= alwaysSampled || (n*golden)>>sampleShift == 0
}
