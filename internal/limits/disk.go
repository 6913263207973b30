package limits

import (
	"math"
	"math/bits"
	"os"
	"path/filepath"
)

const (
	// unknownDisk is the default on a file system that does not tell its size.
	unknownDisk = 16 * gib

	minDefaultDisk = 64 * mib
)

// Disk returns the size in bytes of the file system that holds path. Where path
// does not exist yet, its nearest parent counts. ok is false where the system does
// not tell.
func Disk(path string) (total int64, ok bool) {
	existing, err := nearestExisting(path)
	if err != nil {
		return 0, false
	}
	total, ok = statDisk(existing)
	return total, ok && total > 0
}

// DefaultDisk returns how many bytes of messages a bus may store at path by
// default: a quarter of the file system, 16 GiB where its size is unknown, at
// least 64 MiB. It counts the total, not what is free, so that the answer is
// the same after a restart.
func DefaultDisk(path string) int64 {
	total, ok := Disk(path)
	if !ok {
		return unknownDisk
	}
	return max(total/4, minDefaultDisk)
}

// nearest returns path or the first parent that is there for us.
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

// bytesOf multiplies without overflow: some network file systems claim sizes
// beyond 63 bits.
func bytesOf(blocks, size uint64) int64 {
	high, low := bits.Mul64(blocks, size)
	if high > 0 || low > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low)
}
