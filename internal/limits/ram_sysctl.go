//go:build darwin || freebsd

package limits

import (
	"math"
	"runtime"

	"golang.org/x/sys/unix"
)

// systemRAM returns the RAM in bytes, or 0.
func systemRAM() int64 {
	name := "hw.physmem"
	if runtime.GOOS == "darwin" {
		name = "hw.memsize"
	}
	if n, err := unix.SysctlUint64(name); err == nil && n <= math.MaxInt64 {
		return int64(n)
	}
	// The value is an unsigned long, which has 32 bits on a 32-bit FreeBSD.
	if n, err := unix.SysctlUint32(name); err == nil {
		return int64(n)
	}
	return 0
}
