//go:build darwin || freebsd

package limits

import (
	"math"
	"runtime"

	"golang.org/x/sys/unix"
)

func systemRAM() int64 {
	name := "hw.physmem"
	if runtime.GOOS == "darwin" {
		name = "hw.memsize"
	}
	if n, err := unix.SysctlUint64(name); err == nil && n <= math.MaxInt64 {
		return int64(n)
	}
	// It is an unsigned long, so 32 bits wide on a 32-bit FreeBSD.
	if n, err := unix.SysctlUint32(name); err == nil {
		return int64(n)
	}
	return 0
}
