package settle_test

import (
	"math"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/settle"
)

// Attempts count also where the handler says itself when to try again, so they
// may be many before the first backoff; the doubling must not overflow.
func TestBackoffNeverLeavesItsLimits(t *testing.T) {
	t.Parallel()
	for _, p := range []settle.Policy{
		{MinBackoff: 1, MaxBackoff: 1},
		{MinBackoff: 1, MaxBackoff: 3},
		{MinBackoff: 1, MaxBackoff: math.MaxInt64},
		{MinBackoff: 100 * time.Millisecond, MaxBackoff: math.MaxInt64},
		{MinBackoff: math.MaxInt64, MaxBackoff: math.MaxInt64},
		{MinBackoff: math.MaxInt64/2 + 1, MaxBackoff: math.MaxInt64},
	} {
		before := time.Duration(0)
		for _, attempt := range []int{1, 2, 3, 30, 35, 36, 37, 38, 62, 63, 64, 65, 66, 100, 1 << 20} {
			_, after := settle.Decide(p, attempt, settle.Outcome{Err: errFailed})
			if after < p.MinBackoff-p.MinBackoff/4 || after > p.MaxBackoff {
				t.Errorf("%+v, attempt %d: wait %v", p, attempt, after)
			}
			if after < before-before/4 {
				t.Errorf("%+v, attempt %d: wait %v, less than the %v of an earlier attempt", p, attempt, after, before)
			}
			before = after
		}
	}
}

// Messages that failed together must not come back together.
func TestBackoffIsSpread(t *testing.T) {
	t.Parallel()
	seen := make(map[time.Duration]bool)
	for range 1000 {
		_, after := settle.Decide(settle.Policy{MinBackoff: time.Second, MaxBackoff: time.Minute}, 1, settle.Outcome{Err: errFailed})
		seen[after] = true
	}
	if len(seen) < 900 {
		t.Errorf("1000 messages wait %d different times", len(seen))
	}
}
