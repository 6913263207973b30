//go:build darwin || freebsd

package limits

import "golang.org/x/sys/unix"

func statDisk(path string) (total, free int64, ok bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, false
	}
	// On FreeBSD Bavail is negative while the reserve for root is in use.
	avail := uint64(max(int64(st.Bavail), 0))
	return bytesOf(st.Blocks, uint64(st.Bsize)), bytesOf(avail, uint64(st.Bsize)), true
}
