package bus

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/omnibus-go/bus/internal/storedir"
)

// ConnectError reports a server that could not be reached or refused the connection.
type ConnectError struct {
	URL string // without its password
	Err error
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("bus: cannot connect to %s: %s", e.URL, inner(e.Err))
}

// Unwrap returns the reason.
func (e *ConnectError) Unwrap() error { return e.Err }

// StartError reports that the embedded server did not start. Err is a *StoreError where the
// store directory is the reason.
type StartError struct {
	Addr string // the address that the server could not listen on; empty for another reason
	Err  error
}

func (e *StartError) Error() string {
	if e.Addr != "" {
		return fmt.Sprintf("bus: the embedded server did not start: cannot listen on %q: %v; use another address, or port 0 for any free one", e.Addr, e.Err)
	}
	return "bus: the embedded server did not start: " + inner(e.Err)
}

// Unwrap returns the reason.
func (e *StartError) Unwrap() error { return e.Err }

// StoreProblem says what is wrong with a store directory.
type StoreProblem string

// What can be wrong with a store directory.
const (
	StoreLocked   StoreProblem = "locked"   // another bus uses it, in this process or another one
	StoreForeign  StoreProblem = "foreign"  // it holds something else, and was left as it was
	StoreNewer    StoreProblem = "newer"    // a newer version of this library wrote it
	StoreDamaged  StoreProblem = "damaged"  // a file in it, or a stream, cannot be read
	StoreUnusable StoreProblem = "unusable" // it cannot be created, read or written: its permissions, its disk or its path is wrong
	StoreUnmoved  StoreProblem = "unmoved"  // it holds streams, and WithURL or WithCluster names other servers, which do not have them
)

// StoreError reports a store directory that the bus cannot use. Its text says what to do.
// The messages in the directory were not touched.
type StoreError struct {
	Dir     string
	Problem StoreProblem

	// Who uses a locked directory. All are zero if that process did not record them.
	PID     int    // its process ID on Host; in another container it may mean nothing here
	Host    string // the name of its machine or container
	Program string // the file name of its program
	Bus     string // the server name of its bus
	Since   time.Time

	Streams []string // of StoreUnmoved: the streams that the directory holds, sorted
	Err     error    // the reason; nil for StoreUnmoved with WithURL

	home string // how the streams came home, as part of the text; empty if they did not
}

func (e *StoreError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("bus: store directory %q holds the streams %s, which the server of WithURL does not have%s; remove WithURL to use them, or remove WithStoreDir to leave them behind", e.Dir, strings.Join(e.Streams, ", "), e.home)
	}
	if text := e.Err.Error(); text != inner(e.Err) {
		return text // of package storedir, which names the directory
	}
	return fmt.Sprintf("bus: store directory %q: %v", e.Dir, e.Err)
}

// Unwrap returns the reason.
func (e *StoreError) Unwrap() error { return e.Err }

// storeError turns an error of package storedir about dir into the public one.
func storeError(dir string, err error) *StoreError {
	e := &StoreError{Dir: dir, Problem: StoreUnusable, Err: err}
	locked, isLocked := errors.AsType[*storedir.LockedError](err)
	_, isForeign := errors.AsType[*storedir.ForeignError](err)
	_, isNewer := errors.AsType[*storedir.FormatError](err)
	other, isOther := errors.AsType[*storedir.NodeError](err)
	_, isCorrupt := errors.AsType[*storedir.CorruptError](err)
	switch {
	case isLocked:
		o := locked.Owner
		e.Problem = StoreLocked
		e.PID, e.Host, e.Program, e.Bus, e.Since = o.PID, o.Host, o.Program, o.Bus, o.Since
	case isForeign:
		e.Problem = StoreForeign
	case isOther:
		e.Problem, e.Streams = StoreUnmoved, other.Streams
	case isNewer:
		e.Problem = StoreNewer
	case isCorrupt:
		e.Problem = StoreDamaged
	}
	return e
}

// errLimitReached is what the embedded server says of a message that it refuses.
var errLimitReached = errors.New("the server refused a message, because a limit of memory or disk is reached")

// storageUse is how much of a limit of memory or disk is in use.
type storageUse struct {
	option      string // that sets the limit
	used, limit int64  // bytes
}

// String returns the use as text.
func (u storageUse) String() string {
	return fmt.Sprintf("streams use %d of %d bytes (%s)", u.used, u.limit, u.option)
}

// fullest returns the limit of the embedded server of which the largest share is in use.
func (b *Bus) fullest() (use storageUse, ok bool) {
	local := b.local.Load()
	if local == nil {
		return use, false
	}
	all := local.usage()
	if len(all) == 0 {
		return use, false
	}
	return slices.MaxFunc(all, func(a, b storageUse) int {
		return cmp.Compare(ratio(a.used, a.limit), ratio(b.used, b.limit))
	}), true
}

// storeFullError adds to err, with which the server refuses messages, how much is in use and
// what to do.
func (b *Bus) storeFullError(err error) error {
	if use, ok := b.fullest(); ok {
		return fmt.Errorf("bus: no room for messages: %s: %s; %s", inner(err), use, storeRemedy)
	}
	return fmt.Errorf("bus: no room for messages: %s; %s", inner(err), storeRemedy)
}

// ratio is used/limit, or 0 when there is no limit.
func ratio[N int | int64](used, limit N) float64 {
	if limit <= 0 {
		return 0
	}
	return float64(used) / float64(limit)
}
