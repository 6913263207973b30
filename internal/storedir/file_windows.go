package storedir

import (
	"errors"
	"syscall"
)

// syncDir does nothing. Windows cannot sync a directory, and NTFS has a journal for its
// entries.
func syncDir(string) error { return nil }

// modeWarnings returns nil. Windows uses access control lists, which the modes of Go do not
// show.
func modeWarnings(string, ...string) []string { return nil }

const errorWriteProtect = syscall.Errno(19)

// isReadOnly reports whether err is that of a write-protected medium.
func isReadOnly(err error) bool { return errors.Is(err, errorWriteProtect) }

const (
	errorNotReady         = syscall.Errno(21)
	errorBadNetPath       = syscall.Errno(53)
	errorNetNameDeleted   = syscall.Errno(64)
	errorDeviceNotPresent = syscall.Errno(1167)
)

// isGone reports whether err says that a drive or a network share went away.
func isGone(err error) bool {
	for _, e := range []error{errorNotReady, errorBadNetPath, errorNetNameDeleted, errorDeviceNotPresent} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// isUnwritable is always false. A write-protected medium shows in the errors of the server.
func isUnwritable(string) bool { return false }

// lockableDirs is false. Windows locks no directories, and it does not let anybody remove,
// replace or move LOCK while it is open, nor the directory that it is in.
const lockableDirs = false
