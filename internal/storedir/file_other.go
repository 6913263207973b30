//go:build !windows

package storedir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
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

// modeWarnings returns a warning for each path that other users may access. It does not
// change the modes, because they may be intended, for example for a group.
func modeWarnings(dir string, paths ...string) []string {
	var warnings []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			warnings = append(warnings, fmt.Sprintf("%s has mode %04o, so other users of this machine may use it: chmod -R go= %s", path, mode, dir))
		}
	}
	return warnings
}

// isReadOnly reports whether err is that of a read-only file system.
func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
