package limits_test

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/omnibus-go/bus/internal/limits"
)

const (
	mib = int64(1 << 20)
	gib = int64(1 << 30)
)

// TestMemoryFollowsGoLimit is not parallel: the limit is the process's.
func TestMemoryFollowsGoLimit(t *testing.T) {
	old := debug.SetMemoryLimit(100 * mib)
	t.Cleanup(func() { debug.SetMemoryLimit(old) })
	if got := limits.Memory(); got > 100*mib || got <= 0 {
		t.Errorf("Memory = %d", got)
	}
	if got := limits.DefaultMemory(); got > 25*mib || got < 16*mib {
		t.Errorf("DefaultMemory = %d", got)
	}
	debug.SetMemoryLimit(math.MaxInt64)
	if got := limits.Memory(); got <= 0 || got == math.MaxInt64 {
		t.Errorf("Memory without a limit = %d", got)
	}
}

func TestMemoryKnowsTheMachine(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		return // the other systems have no second source to compare with
	}
	ram := limits.MeminfoTotal(os.DirFS("/"))
	if got := limits.Memory(); ram <= 0 || got > ram {
		t.Errorf("Memory = %d, RAM = %d", got, ram)
	}
}

func TestClampMemory(t *testing.T) {
	t.Parallel()
	for memory, want := range map[int64]int64{
		0: 16 * mib, 1: 16 * mib, 64 * mib: 16 * mib, 100 * mib: 25 * mib, 2 * gib: 512 * mib, 4 * gib: gib, 64 * gib: gib, math.MaxInt64: gib,
	} {
		if got := limits.ClampMemory(memory); got != want {
			t.Errorf("of %d: %d, want %d", memory, got, want)
		}
	}
}

func TestLeast(t *testing.T) {
	t.Parallel()
	tests := []struct {
		sizes []int64
		want  int64
	}{
		{nil, gib},
		{[]int64{0, 0, 0}, gib},
		{[]int64{0, 5, 0}, 5},
		{[]int64{7, 5, 9}, 5},
		{[]int64{-1, 5}, 5},
		{[]int64{math.MaxInt64}, gib},
	}
	for _, tt := range tests {
		if got := limits.Least(tt.sizes...); got != tt.want {
			t.Errorf("of %v: %d, want %d", tt.sizes, got, tt.want)
		}
	}
}
