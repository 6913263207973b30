package storedir

import (
	"errors"
	"fmt"
	"syscall"
)

// opLock is the Op of an [AccessError] whose lock failed.
const opLock = "lock"

// AccessError is the error for a directory that cannot be created, read or written, or that
// is a file.
type AccessError struct {
	// Dir is the path of the directory. It is absolute unless that could not be found out.
	Dir string
	// Op is the operation that failed, for example "create" or "lock".
	Op string
	// Err is the error of the operating system.
	Err error
}

// Error implements error.
func (e *AccessError) Error() string {
	return fmt.Sprintf("bus: cannot use store directory %q: %s: %v: %s", e.Dir, e.Op, e.Err, e.advice())
}

// Unwrap returns Err.
func (e *AccessError) Unwrap() error { return e.Err }

// advice returns what the user can do.
func (e *AccessError) advice() string {
	if _, ok := errors.AsType[*irregularError](e.Err); ok {
		return "move it away, and restore the file from a backup if there was one"
	}
	switch {
	case isReadOnly(e.Err):
		return "the file system is mounted read-only: mount it writable or use another directory"
	case errors.Is(e.Err, syscall.ENOTDIR):
		return "a part of the path is a file: use another path or move the file away"
	case errors.Is(e.Err, syscall.ENOSPC):
		return "the disk is full: make room"
	case e.Op == opLock && (errors.Is(e.Err, errors.ErrUnsupported) || errors.Is(e.Err, syscall.ENOLCK)):
		return "the file system cannot lock files: use a directory on a local disk"
	case e.Dir == "":
		return "name a directory"
	}
	return "it must be a directory that the user of this process may read and write"
}

// FormatError is the error of [Open] for a directory that a newer version of this library
// wrote.
type FormatError struct {
	// Dir is the absolute path of the directory.
	Dir string
	// Found is the format of the directory.
	Found int
	// Supported is the newest format that this version reads.
	Supported int
}

// Error implements error.
func (e *FormatError) Error() string {
	return fmt.Sprintf("bus: store directory %q has format %d, this version reads up to %d: upgrade this program to the version that wrote it",
		e.Dir, e.Found, e.Supported)
}

// CorruptError is the error of [Open] for a damaged identity file.
type CorruptError struct {
	// File is the absolute path of the file.
	File string
	// Err is what is wrong with it.
	Err error
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("bus: %s is damaged: %v: restore it from a backup; it was not changed", e.File, e.Err)
}

// Unwrap returns Err.
func (e *CorruptError) Unwrap() error { return e.Err }
