//go:build !windows

package storedir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// syncDir makes the names in a directory survive a power cut.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // some network and user space file systems have no such thing
	}
	return errors.Join(err, d.Close())
}

// modeWarnings names those paths that others than the owner may use. They stay
// as they are: someone may have wanted it so, such as a group on a volume.
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

func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
