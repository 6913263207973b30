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
