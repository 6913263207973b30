package telemetry_test

import (
	"sync"
	"testing"

	"github.com/omnibus-go/bus/internal/telemetry"
)

func TestFailures(t *testing.T) {
	t.Parallel()
	// from, to are the numbers of calls that fail.
	for _, tc := range []struct {
		name          string
		from, to, all int64
		failed, calls int64
	}{
		{"nothing", 1, 0, 0, 0, 0},
		{"none failed", 1, 0, 50, 0, 50},
		{"all of a few", 1, 5, 5, 5, 5},
		{"within the first window", 1, 100, 100, 100, 100},
		{"the second window", 1, 100, 101, 100, 101},
		{"both windows", 1, 200, 200, 200, 200},
		{"the first one is forgotten", 1, 100, 201, 0, 101},
		{"long ago", 1, 100, 1_000_000, 0, 200},
		{"good for long, bad now", 10_001, 15_000, 15_000, 200, 200},
		{"a few bad ones after long", 1_000_001, 1_000_010, 1_000_010, 10, 110},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var f telemetry.Failures
			for n := tc.from; n <= tc.to; n++ {
				f.Record(n)
			}
			for range 2 {
				if failed, calls := f.Recent(tc.all); failed != tc.failed || calls != tc.calls {
					t.Errorf("%d of %d, want %d of %d", failed, calls, tc.failed, tc.calls)
				}
			}
		})
	}
}

// Late calls count where they belong, or not at all.
func TestFailuresOutOfOrder(t *testing.T) {
	t.Parallel()
	var f telemetry.Failures
	for _, n := range []int64{350, 250, 150, 301, 1} {
		f.Record(n)
	}
	if failed, calls := f.Recent(350); failed != 3 || calls != 150 {
		t.Errorf("%d of %d, want 3 of 150", failed, calls)
	}
	if failed, calls := f.Recent(340); failed != 3 || calls != 140 { // the last ten still run
		t.Errorf("%d of %d, want 3 of 140", failed, calls)
	}
}

func TestFailuresConcurrently(t *testing.T) {
	t.Parallel()
	var f telemetry.Failures
	var wg sync.WaitGroup
	for i := range int64(4) {
		wg.Go(func() {
			for n := range int64(50) {
				f.Record(4*n + i + 1)
				f.Recent(4 * n)
			}
		})
	}
	wg.Wait()
	if failed, calls := f.Recent(200); failed != 200 || calls != 200 {
		t.Errorf("%d of %d, want 200 of 200", failed, calls)
	}
}
