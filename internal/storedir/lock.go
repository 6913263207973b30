package storedir

import (
	"fmt"
	"path/filepath"

	"github.com/gofrs/flock"
)

// LockedError is the error of [Open] for a directory that is open already, in this process
// or in another one.
type LockedError struct {
	// Dir is the absolute path of the directory.
	Dir string
	// Owner is who has the directory open. It is zero if that is not known yet.
	Owner Owner
}

// Error implements error.
func (e *LockedError) Error() string {
	if e.Owner.isThisProcess() {
		return fmt.Sprintf("bus: store directory %q is open in this process already (bus %s): share that bus, or close it first, or use another directory",
			e.Dir, e.Owner.Bus)
	}
	return fmt.Sprintf("bus: store directory %q is in use by %s: stop it or use another directory; do not delete %s, the lock ends with its process",
		e.Dir, e.Owner, lockName)
}

// lockDir locks the directory. Each call opens the file anew, so a second call fails in the
// same process as it does in another. Open calls it.
func lockDir(path string) (*flock.Flock, error) {
	lock := flock.New(filepath.Join(path, lockName), flock.SetPermissions(fileMode))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, &AccessError{Dir: path, Op: opLock, Err: err}
	}
	if !locked {
		return nil, &LockedError{Dir: path, Owner: readOwner(path)}
	}
	return lock, nil
}

// removeOwner removes OWNER. It ignores errors: the next owner overwrites a stale OWNER, and
// on Windows a process that reads the file at this moment prevents its removal.
func (d *Dir) removeOwner() { _ = remove(d.file(ownerName)) }

// Close unlocks the directory. Later and concurrent calls wait for the first one and return
// its error.
func (d *Dir) Close() error {
	d.closing.Do(func() {
		// OWNER goes first: after the unlock it may belong to the next owner.
		d.removeOwner()
		d.closeErr = d.lock.Unlock()
	})
	return d.closeErr
}
