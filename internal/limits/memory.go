package limits

import (
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"strconv"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	// unknownMemory is the result of Memory if all sources are unknown.
	unknownMemory = gib

	minDefaultMemory = 16 * mib
	maxDefaultMemory = gib
)

// Memory returns how many bytes of memory this process may use: the smallest of GOMEMLIMIT, the limits
// of its cgroups, and the RAM of the machine. It is 1 GiB if all are unknown.
func Memory() int64 {
	root := os.DirFS("/")
	return smallest(goLimit(), CgroupMemory(root), ramOf(root), addressSpaceLimit())
}

// DefaultMemory returns how many bytes of messages a bus stores in memory by default: a quarter of
// [Memory], at least 16 MiB and at most 1 GiB.
func DefaultMemory() int64 {
	return clampMemory(Memory())
}

// clampMemory returns the default for that much memory.
func clampMemory(memory int64) int64 {
	return min(max(memory/4, minDefaultMemory), maxDefaultMemory)
}

// smallest returns the smallest known size. An unknown size is not positive.
func smallest(sizes ...int64) int64 {
	result := int64(math.MaxInt64)
	for _, size := range sizes {
		if size > 0 {
			result = min(result, size)
		}
	}
	if result == math.MaxInt64 {
		return unknownMemory
	}
	return result
}

// goLimit returns GOMEMLIMIT, or the limit that the program has set, or 0.
func goLimit() int64 {
	limit := debug.SetMemoryLimit(-1) // a negative limit changes nothing
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

// addressSpaceLimit returns 2 GiB for a 32-bit process, which cannot use all RAM of a large machine.
// Every operating system gives a process at least that. For other processes it returns 0.
func addressSpaceLimit() int64 {
	if strconv.IntSize == 32 {
		return 2 * gib
	}
	return 0
}

// ramOf returns the RAM by /proc/meminfo in root, which a container may override, or else by the
// operating system.
func ramOf(root fs.FS) int64 {
	if ram := MeminfoTotal(root); ram > 0 {
		return ram
	}
	return systemRAM()
}
