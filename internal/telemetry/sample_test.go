package telemetry_test

import (
	"testing"

	"github.com/omnibus-go/bus/internal/telemetry"
)

func TestSamplerTimesTheFirstThenOneIn16(t *testing.T) {
	var s telemetry.Sampler
	for i := range 64 {
		if !s.Next() {
			t.Fatalf("message %d of the first 64 is not timed", i+1)
		}
	}
	const n = 160_000
	timed := 0
	for range n {
		if s.Next() {
			timed++
		}
	}
	if timed < n/16-16 || timed > n/16+16 {
		t.Errorf("%d of %d messages timed, want %d", timed, n, n/16)
	}
}

// A fixed step would time one place of a rhythm only.
func TestSamplerHasNoRhythm(t *testing.T) {
	for _, period := range []int{2, 3, 8, 16, 21, 34, 64, 100} {
		var s telemetry.Sampler
		const rounds = 16_000
		timed := make([]int, period)
		for i := range rounds * period {
			if s.Next() && i >= 64 {
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

func TestSamplerLeavesNoLongGap(t *testing.T) {
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

func BenchmarkSampler(b *testing.B) {
	var s telemetry.Sampler
	for b.Loop() {
		s.Next()
	}
}
