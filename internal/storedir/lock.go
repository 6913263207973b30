package storedir

import (
	"errors"
	"fmt"
	"os"
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

// locks are the locks of a directory. That of the file LOCK ends when somebody removes the
// file: another process then locks a new one. So the directory itself is locked too, where the
// system can do that.
type locks struct {
	file *flock.Flock
	self *flock.Flock // nil: only the file is locked
}

// lockDir locks the directory. Each call opens the file anew, so a second call fails in the
// same process as it does in another. The warning says that only LOCK could be locked. Open
// calls it.
func lockDir(path string) (l *locks, warning string, err error) {
	l = &locks{file: flock.New(filepath.Join(path, lockName), flock.SetPermissions(fileMode))}
	locked, err := l.file.TryLock()
	if err != nil {
		return nil, "", &AccessError{Dir: path, Op: opLock, Err: err}
	}
	if locked && lockableDirs {
		l.self = flock.New(path, flock.SetFlag(os.O_RDONLY))
		if locked, err = l.self.TryLock(); err != nil {
			l.self, locked = nil, true
			warning = fmt.Sprintf("the file system cannot lock %s itself, only the file %s in it: %v; if that file is removed while a bus has the directory open, another process can open it too", path, lockName, err)
		}
	}
	if !locked {
		_ = l.unlock() // the other process is more important
		return nil, "", &LockedError{Dir: path, Owner: readOwner(path)}
	}
	return l, warning, nil
}

// unlock gives up both locks.
func (l *locks) unlock() error {
	var err error
	if l.self != nil {
		err = l.self.Unlock()
	}
	return errors.Join(err, l.file.Unlock())
}

// removeOwner removes OWNER. It ignores errors: the next owner overwrites a stale OWNER, and
// on Windows a process that reads the file at this moment prevents its removal.
func (d *Dir) removeOwner() { _ = remove(d.file(ownerName)) }

// Close unlocks the directory. The folder of a way home that is not committed goes. Later and concurrent calls wait for the first one and return
// its error.
func (d *Dir) Close() error {
	d.closing.Do(func() {
		if d.data != d.identity.data() && d.data != "" && !d.undecided {
			_ = os.RemoveAll(d.Data()) // else the next Open does it
		}
		// OWNER goes first: after the unlock it may belong to the next owner.
		d.removeOwner()
		d.closeErr = d.locks.unlock()
	})
	return d.closeErr
}
