package storedir

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// LockedError is returned when another [Open], in this process or another one,
// has the directory.
type LockedError struct {
	// Dir is the directory's absolute path.
	Dir string
	// Owner says who has it; zero if it did not say so yet.
	Owner Owner
}

// Error implements error.
func (e *LockedError) Error() string {
	if e.Owner.isThisProcess() {
		return fmt.Sprintf("bus: store directory %q is open in this process already (bus %s): share that bus, or close it first, or use another directory",
			e.Dir, e.Owner.Bus)
	}
	return fmt.Sprintf("bus: store directory %q is in use by %s: stop it or use another directory; do not delete %s, it frees itself when its process ends",
		e.Dir, e.Owner, lockName)
}

// opLock is the Op of an [AccessError] for a file system without locks.
const opLock = "lock"

// AccessError is returned when the directory cannot be created, read or
// written, or is no directory.
type AccessError struct {
	// Dir is the directory's path, absolute where it could be found.
	Dir string
	// Op is what was tried, such as "create" or "lock".
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

func (e *AccessError) advice() string {
	switch {
	case isReadOnly(e.Err):
		return "the file system is mounted read-only: mount it writable or use another directory"
	case errors.Is(e.Err, syscall.ENOTDIR):
		return "a part of the path is a file: use another path or move the file away"
	case errors.Is(e.Err, syscall.ENOSPC):
		return "the disk is full: make room or use another directory"
	case e.Op == opLock && (errors.Is(e.Err, errors.ErrUnsupported) || errors.Is(e.Err, syscall.ENOLCK)):
		return "the file system cannot lock files: use a directory on a local disk"
	case e.Dir == "":
		return "name a directory"
	}
	return "it must be a directory that the user of this process may read and write"
}

// FormatError is returned when a newer version of this library wrote the directory.
type FormatError struct {
	// Dir is the directory's absolute path.
	Dir string
	// Found is the directory's format.
	Found int
	// Supported is the newest format that this version reads.
	Supported int
}

// Error implements error.
func (e *FormatError) Error() string {
	return fmt.Sprintf("bus: store directory %q has format %d, this version reads up to %d: upgrade this program to the version that wrote it",
		e.Dir, e.Found, e.Supported)
}

// ForeignError is returned when the directory is not empty and not ours. It is
// left as it was.
type ForeignError struct {
	// Dir is the directory's absolute path.
	Dir string
	// Found has the names of the entries that are not ours, sorted.
	Found []string
}

// Error implements error.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("bus: directory %q is not a bus directory: it has no %s but holds %s: %s", e.Dir, identityName, e.list(), e.advice())
}

func (e *ForeignError) list() string {
	const most = 3
	quoted := make([]string, 0, most)
	for _, name := range e.Found[:min(len(e.Found), most)] {
		quoted = append(quoted, fmt.Sprintf("%q", name))
	}
	if more := len(e.Found) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(quoted, ", "), more)
	}
	return strings.Join(quoted, ", ")
}

func (e *ForeignError) advice() string {
	const empty = "use a new or empty directory"
	switch {
	case slices.Contains(e.Found, dataName):
		return "if it was one, restore " + identityName + " from a backup, otherwise " + empty
	case slices.Contains(e.Found, "jetstream"):
		return "it seems to be the store of a plain nats-server; keep that server running and connect to it, or back its streams up and restore them into a bus; for a new bus " + empty
	}
	return empty
}

// CorruptError is returned when a file of ours cannot be understood.
type CorruptError struct {
	// File is the file's absolute path.
	File string
	// Err says what is wrong with it.
	Err error
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("bus: %s is damaged: %v: restore it from a backup; it was not changed", e.File, e.Err)
}

// Unwrap returns Err.
func (e *CorruptError) Unwrap() error { return e.Err }
