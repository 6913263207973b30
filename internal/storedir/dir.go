package storedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/gofrs/flock"
)

// The names of our entries in a directory.
const (
	lockName     = "LOCK"
	ownerName    = "OWNER"
	identityName = "omnibus.json"
	dataName     = "data"
	asideName    = "set-aside"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// Dir is an open directory. It is locked until [Dir.Close]; the lock ends with
// the process in any case. All methods may be called from several goroutines.
type Dir struct {
	// Warnings says what is wrong with the directory but no reason to refuse
	// it, such as a mode that lets others read it. Ready to be logged.
	Warnings []string

	path     string
	identity Identity
	lock     *flock.Flock
	closing  sync.Once
	closeErr error
}

// Open locks dir for this process and returns it. It creates dir and its
// parents if they are absent, with a new identity. Open does not wait for a lock.
// It returns [*LockedError], [*AccessError], [*FormatError], [*ForeignError] or
// [*CorruptError], and then has taken nothing over.
func Open(dir string) (*Dir, error) {
	path, err := create(dir)
	if err != nil {
		return nil, err
	}
	// Before the first write: not even a LOCK is left in a foreign directory.
	if err := refuseForeign(path); err != nil {
		return nil, err
	}
	lock, err := acquire(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, lock: lock}
	if err := d.load(); err != nil {
		_ = d.Close() // err says more
		return nil, err
	}
	return d, nil
}

// create makes dir with its parents and returns its absolute path.
func create(dir string) (string, error) {
	if dir == "" {
		return "", &AccessError{Dir: dir, Op: "open", Err: errors.New("the path is empty")}
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", &AccessError{Dir: dir, Op: "open", Err: err}
	}
	missing := missingDirs(path)
	if err := os.MkdirAll(path, dirMode); err != nil {
		return "", &AccessError{Dir: path, Op: "create", Err: err}
	}
	// A power cut must not take away a directory in which messages were stored.
	for _, made := range missing {
		if err := syncDir(filepath.Dir(made)); err != nil && !errors.Is(err, os.ErrPermission) {
			return "", &AccessError{Dir: path, Op: "create", Err: err}
		}
	}
	return path, nil
}

// missingDirs returns path and those of its parents that do not exist.
func missingDirs(path string) []string {
	var missing []string
	for {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return missing
		}
		missing = append(missing, path)
		parent := filepath.Dir(path)
		if parent == path {
			return missing
		}
		path = parent
	}
}

// acquire takes the lock. Each call opens the file anew, so a second one in
// this process fails like one in another.
func acquire(path string) (*flock.Flock, error) {
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

// load brings a locked directory into order and fills d.
func (d *Dir) load() error {
	if err := d.clean(); err != nil {
		return err
	}
	identity, err := loadIdentity(d.path)
	if err != nil {
		return err
	}
	d.identity = identity
	if err := makeData(d.Data()); err != nil {
		return &AccessError{Dir: d.path, Op: "create " + dataName, Err: err}
	}
	d.Warnings = modeWarnings(d.path, d.path, d.file(identityName), d.Data())
	if err := writeOwner(d.path, identity); err != nil {
		d.Warnings = append(d.Warnings, fmt.Sprintf("%v; who finds the directory locked will not be told by whom", err))
	}
	return nil
}

// clean removes what a crash left: a half-written identity, a dead owner.
func (d *Dir) clean() error {
	d.removeOwner()
	if err := remove(d.file(tempName(identityName))); err != nil {
		return &AccessError{Dir: d.path, Op: "clean", Err: err}
	}
	return nil
}

// removeOwner ignores errors: a stale OWNER is overwritten by the next owner,
// and on Windows a process that reads it right now can stop its removal.
func (d *Dir) removeOwner() { _ = remove(d.file(ownerName)) }

func makeData(path string) error {
	err := os.Mkdir(path, dirMode)
	if errors.Is(err, os.ErrExist) {
		return checkDir(path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Path returns the absolute path of the directory.
func (d *Dir) Path() string { return d.path }

// Identity returns what the directory is and was since its creation.
func (d *Dir) Identity() Identity { return d.identity }

// Data returns the path of the directory within for the server's data. It exists.
func (d *Dir) Data() string { return d.file(dataName) }

func (d *Dir) file(name string) string { return filepath.Join(d.path, name) }

// Close gives the directory free. Further calls, also at the same time, wait
// for the first and return the same.
func (d *Dir) Close() error {
	d.closing.Do(func() {
		// In this order: once unlocked, OWNER may be the next owner's.
		d.removeOwner()
		d.closeErr = d.lock.Unlock()
	})
	return d.closeErr
}

// tolerated are entries by others that do not make an empty directory foreign:
// what file systems and desktops put into the root of a volume.
var tolerated = []string{"lost+found", ".snapshot", ".DS_Store", "System Volume Information"}

// refuseForeign returns an error if path holds something but no identity.
func refuseForeign(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return &AccessError{Dir: path, Op: "read", Err: err}
	}
	found := foreignNames(entries)
	if len(found) == 0 {
		return nil
	}
	// Asked after the list was read: a concurrent Open writes the identity
	// before anything that the list could hold.
	switch _, err := os.Lstat(filepath.Join(path, identityName)); {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return &ForeignError{Dir: path, Found: found}
	default:
		return &AccessError{Dir: path, Op: "read", Err: err}
	}
}

func foreignNames(entries []os.DirEntry) []string {
	ours := []string{lockName, ownerName, identityName, tempName(identityName)}
	var found []string
	for _, entry := range entries {
		name := entry.Name()
		if !slices.Contains(ours, name) && !slices.Contains(tolerated, name) {
			found = append(found, name)
		}
	}
	return found
}
