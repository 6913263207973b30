package telemetry_test

import (
	"testing"

	"github.com/omnibus-go/bus/internal/telemetry"
)

func TestSampledTimesTheFirstThenOneIn16(t *testing.T) {
	for n := uint64(1); n <= 64; n++ {
		if !telemetry.Sampled(n) {
			t.Fatalf("message %d of the first 64 is not timed", n)
		}
	}
	const n = 160_000
	timed := 0
	for i := range uint64(n) {
		if telemetry.Sampled(65 + i) {
			timed++
		}
	}
	if timed < n/16-16 || timed > n/16+16 {
		t.Errorf("%d of %d messages timed, want %d", timed, n, n/16)
	}
}

// A fixed step would time one place of a rhythm only.
func TestSampledHasNoRhythm(t *testing.T) {
	for _, period := range []int{2, 3, 8, 16, 21, 34, 64, 100} {
		const rounds = 16_000
		timed := make([]int, period)
		for i := range rounds * period {
			if telemetry.Sampled(uint64(i+1)) && i >= 64 {
				timed[i%period]++
			}
		}
		for place, n := range timed {
			if want := rounds / 16; n < want*9/10 || n > want*11/10 {
				t.Errorf("period %d: place %d timed %d times, want about %d", period, place, n, want)
			}
		}
	}
}

func TestSampledLeavesNoLongGap(t *testing.T) {
	gap := 0
	for n := uint64(65); n < 1_000_000; n++ {
		if gap++; telemetry.Sampled(n) {
			gap = 0
		}
		if gap > 64 {
			t.Fatalf("64 messages up to %d not timed", n)
		}
	}
}

func BenchmarkSampled(b *testing.B) {
	var n uint64
	for b.Loop() {
		n++
		telemetry.Sampled(n)
	}
}
