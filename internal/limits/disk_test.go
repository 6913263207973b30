package limits_test

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/omnibus-go/bus/internal/limits"
)

func TestDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want, ok := limits.Disk(dir)
	if known := slices.Contains([]string{"linux", "darwin", "freebsd", "windows"}, runtime.GOOS); ok != known {
		t.Fatalf("ok = %v on %s", ok, runtime.GOOS)
	}
	if ok && want <= 0 {
		t.Errorf("total %d", want)
	}
	for _, path := range []string{file, filepath.Join(dir, "not", "there"), filepath.Join(file, "below")} {
		if total, again := limits.Disk(path); total != want || again != ok {
			t.Errorf("%s: total %d, %v, want %d, %v", path, total, again, want, ok)
		}
	}
}

func TestDefaultDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := 16 * gib
	if total, ok := limits.Disk(dir); ok {
		want = max(total/4, 64*mib)
	}
	if got := limits.DefaultDisk(dir); got != want {
		t.Errorf("DefaultDisk = %d, want %d", got, want)
	}
}

// TestDiskWithoutSize asks a file system that has none.
func TestDiskWithoutSize(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		return
	}
	if total, ok := limits.Disk("/proc/self"); ok {
		t.Errorf("/proc has %d bytes", total)
	}
	if got := limits.DefaultDisk("/proc/self"); got != 16*gib {
		t.Errorf("DefaultDisk = %d", got)
	}
}

func TestBytesOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		blocks, size uint64
		want         int64
	}{
		{0, 4096, 0},
		{3, 4096, 12288},
		{1 << 62, 4096, math.MaxInt64},
		{1 << 63, 1, math.MaxInt64},
		{math.MaxUint64, math.MaxUint64, math.MaxInt64},
	} {
		if got := limits.BytesOf(tt.blocks, tt.size); got != tt.want {
			t.Errorf("%d × %d = %d, want %d", tt.blocks, tt.size, got, tt.want)
		}
	}
}
