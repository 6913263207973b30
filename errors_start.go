package bus

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/omnibus-go/bus/internal/storedir"
)

// StartError reports that the embedded server did not start. Err is a
// *ListenError or a *StoreError where that is the reason.
type StartError struct{ Err error }

func (e *StartError) Error() string {
	return "bus: the embedded server did not start: " + inner(e.Err)
}

// Unwrap returns the reason.
func (e *StartError) Unwrap() error { return e.Err }

// ListenError reports an address the embedded server could not listen on.
type ListenError struct {
	Addr string // of WithListen, or of another port that WithServerOptions opens
	Err  error
}

func (e *ListenError) Error() string {
	return fmt.Sprintf("bus: cannot listen on %q: %v; use another address, or port 0 for any free one", e.Addr, e.Err)
}

// Unwrap returns the reason.
func (e *ListenError) Unwrap() error { return e.Err }

// StoreProblem says what is wrong with a store directory.
type StoreProblem string

// What can be wrong with a store directory.
const (
	StoreLocked   StoreProblem = "locked"   // another bus uses it; Err is a *LockedError
	StoreForeign  StoreProblem = "foreign"  // it holds something else, and was left as it was
	StoreNewer    StoreProblem = "newer"    // a newer version of this library wrote it
	StoreDamaged  StoreProblem = "damaged"  // a file in it, or a stream, cannot be read
	StoreUnusable StoreProblem = "unusable" // it cannot be made, read or written: its rights, its disk, its path
)

// StoreError reports a store directory that the embedded server cannot use. Its
// text says what to do. No message in it was touched.
type StoreError struct {
	Dir     string
	Problem StoreProblem
	Err     error
}

func (e *StoreError) Error() string {
	if text := e.Err.Error(); text != inner(e.Err) {
		return text // one of ours, which names the directory
	}
	return fmt.Sprintf("bus: store directory %q: %v", e.Dir, e.Err)
}

// Unwrap returns the reason.
func (e *StoreError) Unwrap() error { return e.Err }

// LockedError is the reason of a *StoreError when another bus uses the store
// directory, in this process or another one. The lock ends with its process.
type LockedError struct {
	Dir   string
	Owner StoreOwner
}

func (e *LockedError) Error() string {
	return (&storedir.LockedError{Dir: e.Dir, Owner: storedir.Owner(e.Owner)}).Error()
}

// StoreOwner says who uses a store directory. All fields are zero where it did not
// say so.
type StoreOwner struct {
	PID     int    // its process id on Host; in another container it may mean nothing here
	Host    string // the name of its machine or container
	Program string // the file name of its program
	Bus     string // the server name of its bus
	Since   time.Time
}

// storeError makes an error of what package storedir says about dir.
func storeError(dir string, err error) *StoreError {
	e := &StoreError{Dir: dir, Problem: StoreUnusable, Err: err}
	locked, isLocked := errors.AsType[*storedir.LockedError](err)
	_, isForeign := errors.AsType[*storedir.ForeignError](err)
	_, isNewer := errors.AsType[*storedir.FormatError](err)
	_, isCorrupt := errors.AsType[*storedir.CorruptError](err)
	switch {
	case isLocked:
		e.Problem = StoreLocked
		e.Err = &LockedError{Dir: locked.Dir, Owner: StoreOwner(locked.Owner)}
	case isForeign:
		e.Problem = StoreForeign
	case isNewer:
		e.Problem = StoreNewer
	case isCorrupt:
		e.Problem = StoreDamaged
	}
	return e
}

// UnmovedError is returned by New when WithURL names a server while the store
// directory holds streams: they would silently be missing there.
type UnmovedError struct {
	Dir     string
	Streams []string // sorted
}

func (e *UnmovedError) Error() string {
	return fmt.Sprintf("bus: store directory %q holds the streams %s, which the server of WithURL does not have from here; drop WithURL to use them, or WithStoreDir to leave them behind", e.Dir, strings.Join(e.Streams, ", "))
}
