package limits

import "golang.org/x/sys/unix"

// statDisk returns the size of the file system of path.
func statDisk(path string) (total int64, ok bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, false
	}
	// The unit of Blocks is Frsize, which is 0 on old kernels.
	size := uint64(st.Frsize)
	if size == 0 {
		size = uint64(st.Bsize)
	}
	return bytesOf(st.Blocks, size), true
}
