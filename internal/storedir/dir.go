package storedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// The names of the entries that this package makes.
const (
	lockName     = "LOCK"
	ownerName    = "OWNER"
	identityName = "omnibus.json"
	dataName     = "data"
	asideName    = "set-aside"
	journalName  = "switch.json"
	idsName      = "switch.ids"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// Dir is an open directory. It is locked until [Dir.Close], at most until the process ends.
// Safe for concurrent use.
type Dir struct {
	// Warnings are faults of the directory that do not make Open fail, for example a mode
	// that lets other users read it. Each is a text for the log.
	Warnings []string

	path      string
	identity  Identity
	data      string // the name of the folder for the server
	undecided bool   // nobody knows which folder the identity names
	locks     *locks
	parts     []part // what must stay where it is
	closing   sync.Once
	closeErr  error

	unclaimed bool // identity is that of a node, and not stored yet
}

// Open locks dir for this process and returns it. If dir does not exist, Open creates it
// and its parents, with a new identity. It does not wait for a lock. It fails with a
// [*LockedError], [*AccessError], [*FormatError], [*ForeignError], [*CorruptError] or
// [*MovedError]; then dir is not locked. The directory of a node of a cluster is refused with
// a [*NodeError].
func Open(dir string) (*Dir, error) { return open(dir, Node{}, "") }

// open is Open for a server that is the node, or for the way home with an ID.
func open(dir string, node Node, home string) (*Dir, error) {
	path, err := createDir(dir)
	if err != nil {
		return nil, err
	}
	if err := checkRegular(path); err != nil {
		return nil, err
	}
	// This comes before the first write, so that a foreign directory gets no LOCK either.
	if err := checkForeign(path); err != nil {
		return nil, err
	}
	locks, warning, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, locks: locks}
	if warning != "" {
		d.Warnings = append(d.Warnings, warning)
	}
	if err := d.prepare(node, home); err != nil {
		_ = d.Close() // err is more important
		return nil, err
	}
	return d, nil
}

// createDir creates dir with its parents and returns its absolute path.
func createDir(dir string) (string, error) {
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
	// A power cut must not remove a directory in which messages were stored.
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

// prepare cleans a locked directory, reads or creates the identity, and fills d. Open calls
// it.
func (d *Dir) prepare(node Node, home string) error {
	if err := d.clean(); err != nil {
		return err
	}
	identity, err := loadIdentity(d.path)
	if err != nil {
		return err
	}
	if err := d.choose(identity, home); err != nil {
		return err
	}
	if err := d.checkNode(node); err != nil {
		return err
	}
	if err := d.removeFolders(d.identity.data(), d.data); err != nil {
		d.Warnings = append(d.Warnings, err.Error())
	}
	if err := makeData(d.Data()); err != nil {
		return &AccessError{Dir: d.path, Op: "create " + d.data, Err: err}
	}
	if err := checkRegularBelow(d.path, d.Data()); err != nil {
		return err
	}
	d.Warnings = append(d.Warnings, modeWarnings(d.path, d.file(identityName), d.Data())...)
	if d.parts, err = partsOf(d.path, d.data); err != nil {
		return &AccessError{Dir: d.path, Op: "look at", Err: err}
	}
	if err := writeOwner(d.path, d.identity); err != nil {
		d.Warnings = append(d.Warnings, fmt.Sprintf("%v; if another process finds the directory locked, its error will not say who uses it", err))
	}
	return nil
}

// choose chooses the folder of the data: that of the identity, or the new one of a way home. It
// refuses to use streams that are old.
func (d *Dir) choose(identity Identity, home string) error {
	d.identity, d.data = identity, identity.data()
	if home != "" {
		return d.prepareHome(home)
	}
	if identity.Moved != nil {
		return &MovedError{Dir: d.path, Move: *identity.Moved}
	}
	m, begun, err := d.Begun()
	switch {
	case err != nil: // it may say that the streams are elsewhere
		return err
	case begun && m.Home:
		return &MovedError{Dir: d.path, Move: m}
	}
	if _, err := os.Stat(d.Data()); identity.Home != nil && err != nil { // an empty one would hide that the streams are gone
		return &AccessError{Dir: d.path, Op: "open " + d.data + ", where the streams are since they came home; restore it", Err: err}
	}
	return nil
}

// clean removes what a crash left: a half-written identity and a stale OWNER.
func (d *Dir) clean() error {
	d.removeOwner()
	for _, name := range []string{identityName, journalName, idsName} {
		if err := remove(d.file(tempName(name))); err != nil {
			return &AccessError{Dir: d.path, Op: "clean", Err: err}
		}
	}
	return nil
}

// makeData creates the directory for the data of the server.
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

// Identity returns the identity of the directory.
func (d *Dir) Identity() Identity { return d.identity }

// Data returns the path of the directory for the data of the server. It exists.
func (d *Dir) Data() string { return d.file(d.data) }

// file returns the path of an entry of the directory.
func (d *Dir) file(name string) string { return filepath.Join(d.path, name) }
