//go:build darwin || freebsd

package limits

import "golang.org/x/sys/unix"

// statDisk returns the size of the file system of path.
func statDisk(path string) (total int64, ok bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, false
	}
	return bytesOf(st.Blocks, uint64(st.Bsize)), true
}
