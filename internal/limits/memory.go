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

	// unknownMemory is what Memory returns when no source says anything.
	unknownMemory = gib

	minDefaultMemory = 16 * mib
	maxDefaultMemory = gib
)

// Memory returns how many bytes of memory this process may use: the least of
// GOMEMLIMIT, the limits of its cgroups, and the machine's RAM. It is 1 GiB if
// all are unknown.
func Memory() int64 {
	root := os.DirFS("/")
	return smallest(goLimit(), CgroupMemory(root), ramOf(root), addressSpaceLimit())
}

// DefaultMemory returns how many bytes of messages a bus may hold in memory by
// default: a quarter of [Memory], at least 16 MiB and at most 1 GiB.
func DefaultMemory() int64 {
	return clampMemory(Memory())
}

func clampMemory(memory int64) int64 {
	return min(max(memory/4, minDefaultMemory), maxDefaultMemory)
}

// least returns the least of the known sizes; unknown ones are not positive.
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

// goLimit returns GOMEMLIMIT, also when the program set it itself.
func goLimit() int64 {
	limit := debug.SetMemoryLimit(-1) // a negative limit only asks
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

// addressSpace keeps a 32-bit process from counting on all the RAM of a large
// machine. Half of 4 GiB is what every system gives to a process.
func addressSpaceLimit() int64 {
	if strconv.IntSize == 32 {
		return 2 * gib
	}
	return 0
}

// ramOf prefers /proc/meminfo in root, which containers may override, where there is one.
func ramOf(root fs.FS) int64 {
	if ram := MeminfoTotal(root); ram > 0 {
		return ram
	}
	return systemRAM()
}
