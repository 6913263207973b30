package storedir

import (
	"fmt"
	"os"
)

// LostError is the error of [Dir.Check] for a directory that is not the locked one any more.
// What is written goes to files that nobody finds, and another process may have the new
// directory open.
type LostError struct {
	// Dir is the absolute path of the directory.
	Dir string
	// What happened.
	What string
}

// Error implements error.
func (e *LostError) Error() string {
	return fmt.Sprintf("bus: store directory %q is lost: %s while it was open; nothing is stored any more: close the bus, restore the directory, and start again", e.Dir, e.What)
}

// remember keeps which directory and which lock file were opened. Open calls it once.
func (d *Dir) remember() (err error) {
	if d.self, err = os.Stat(d.path); err == nil {
		d.lockFile, err = os.Stat(d.file(lockName))
	}
	if err != nil {
		return &AccessError{Dir: d.path, Op: "look at", Err: err}
	}
	return nil
}

// Check returns a [*LostError] if the directory or its lock file was removed, moved or
// replaced since Open. It costs two calls of stat. An error of stat that says nothing of
// that is no loss.
func (d *Dir) Check() error {
	for _, f := range []struct {
		path, name string
		was        os.FileInfo
	}{{d.path, "the directory", d.self}, {d.file(lockName), "its file " + lockName, d.lockFile}} {
		now, err := os.Stat(f.path)
		switch {
		case os.IsNotExist(err):
			return &LostError{Dir: d.path, What: f.name + " was removed or moved"}
		case err == nil && !os.SameFile(f.was, now):
			return &LostError{Dir: d.path, What: f.name + " was replaced"}
		}
	}
	return nil
}
