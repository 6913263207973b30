package storedir

import (
	"errors"
	"syscall"
)

// syncDir does nothing: Windows cannot sync a directory, and NTFS keeps a
// journal of its names.
func syncDir(string) error { return nil }

// modeWarnings returns nil: access follows lists here, and Go's modes say
// nothing about them.
func modeWarnings(string, ...string) []string { return nil }

const errorWriteProtect = syscall.Errno(19)

func isReadOnly(err error) bool { return errors.Is(err, errorWriteProtect) }
