package intake

import (
	"testing"
	"time"
)

// Time counts as lost only between a look at which it is and the next one. A tenth of the other
// time is forgiven.
func TestLostTime(t *testing.T) {
	t.Parallel()
	var r room
	now := time.Now()
	for _, step := range []struct {
		passed time.Duration
		losing bool
		want   time.Duration
	}{
		{0, true, 0},
		{lookAtRoom, true, 10 * time.Millisecond},
		{lookAtRoom, false, 20 * time.Millisecond},
		{100 * time.Millisecond, true, 10 * time.Millisecond},
		{time.Hour, true, 30 * time.Millisecond}, // it was not looked at
		{lookAtRoom, false, 40 * time.Millisecond},
		{time.Hour, false, 0},
	} {
		now = now.Add(step.passed)
		if got := r.count(now, step.losing); got != step.want {
			t.Errorf("after %v %v are lost, want %v", step.passed, got, step.want)
		}
	}
}
