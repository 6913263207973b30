package limits

import (
	"math"
	"math/bits"
	"os"
	"path/filepath"
)

const (
	// unknownDisk is the default if the size of the file system is unknown.
	unknownDisk = 16 * gib

	minDefaultDisk = 64 * mib
)

// Disk returns the size in bytes of the file system of path. If path does not exist it uses the nearest
// existing parent. ok is false if the size is unknown.
func Disk(path string) (total int64, ok bool) {
	existing, err := nearestExisting(path)
	if err != nil {
		return 0, false
	}
	total, ok = statDisk(existing)
	return total, ok && total > 0
}

// DefaultDisk returns how many bytes of messages a bus stores at path by default: a quarter of the file
// system, but at least 64 MiB, and 16 GiB if the size is unknown. It uses the total size and not
// the free space, so that the result is the same after a restart.
func DefaultDisk(path string) int64 {
	total, ok := Disk(path)
	if !ok {
		return unknownDisk
	}
	return max(total/4, minDefaultDisk)
}

// nearestExisting returns path, or its nearest parent that exists and is accessible.
func nearestExisting(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for {
		_, err := os.Stat(path)
		parent := filepath.Dir(path)
		if err == nil || parent == path {
			return path, err
		}
		path = parent
	}
}

// bytesOf returns blocks * size without overflow. Some network file systems report sizes of more than
// 63 bits.
func bytesOf(blocks, size uint64) int64 {
	high, low := bits.Mul64(blocks, size)
	if high > 0 || low > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low)
}
