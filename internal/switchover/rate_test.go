package switchover

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/switchover"
)

// A report has the bytes of the last second, and zero when none were sent.
func TestProgressRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got switchover.Progress
		s := &run{began: time.Now(), Config: Config{Progress: func(p switchover.Progress) { got = p }}}
		for _, step := range []struct {
			after time.Duration
			sends int
			want  int64
		}{
			{0, 0, 0},
			{50 * time.Millisecond, 1000, 1000},
			{400 * time.Millisecond, 500, 1500}, // at 450 ms
			{400 * time.Millisecond, 0, 1500},
			{250 * time.Millisecond, 0, 500},  // at 1.1 s the first 1000 are more than a second old
			{300 * time.Millisecond, 70, 570}, // at 1.4 s
			{100 * time.Millisecond, 0, 70},
			{time.Second, 0, 0},
			{time.Hour, 30, 30},
			{time.Hour, 0, 0},
		} {
			time.Sleep(step.after) // virtual
			if step.sends > 0 {
				s.sent(step.sends)
			} else {
				_ = s.phase(switchover.Copy, func() error { return nil })
			}
			if got.Rate != step.want {
				t.Errorf("after %v the rate is %d, want %d", got.Elapsed, got.Rate, step.want)
			}
		}
		if got.Bytes != 1600 {
			t.Errorf("%d bytes were sent in all, want 1600", got.Bytes)
		}
	})
}
