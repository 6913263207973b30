package limits

import "golang.org/x/sys/unix"

func statDisk(path string) (total int64, ok bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, false
	}
	// Blocks are counted in fragments; old kernels leave their size 0.
	size := uint64(st.Frsize)
	if size == 0 {
		size = uint64(st.Bsize)
	}
	return bytesOf(st.Blocks, size), true
}
