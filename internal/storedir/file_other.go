//go:build !windows

package storedir

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// syncDir syncs a directory to the disk, so that its entries survive a power cut.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // some network and user space file systems cannot sync a directory
	}
	return errors.Join(err, d.Close())
}

// modeWarnings returns a warning if other users may write in dir, and one for each of the paths in it
// that they may access. That they may list dir is usual, and tells them names. It does not
// change the modes, because they may be intended, for example for a group.
func modeWarnings(dir string, paths ...string) []string {
	var warnings []string
	for _, path := range append([]string{dir}, paths...) {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		refused := os.FileMode(0o077)
		if path == dir {
			refused = 0o022
		}
		if mode := info.Mode().Perm(); mode&refused != 0 {
			warnings = append(warnings, fmt.Sprintf("%s has mode %04o, so other users of this machine may use it: chmod -R go= %s", path, mode, dir))
		}
	}
	return warnings
}

// isReadOnly reports whether err is that of a read-only file system.
func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }

// isGone reports whether err says that a file system went away: a disk that was pulled, a
// network file system that forgot the file, a user space file system that died.
func isGone(err error) bool {
	for _, e := range []error{syscall.ESTALE, syscall.EIO, syscall.ENXIO, syscall.ENODEV, syscall.ENOTCONN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// isUnwritable reports whether path is on a file system that is read-only. It is no test of
// the rights of this process.
func isUnwritable(path string) bool { return isReadOnly(unix.Access(path, unix.W_OK)) }

// lockableDirs says that a directory can be locked like a file.
const lockableDirs = true
