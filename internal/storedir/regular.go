package storedir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// irregularError is why a file cannot be opened: it is a FIFO, a socket or a device. Who opens
// a FIFO waits for somebody to write to it.
type irregularError struct{ kind string }

// Error implements error.
func (e *irregularError) Error() string { return "it is a " + e.kind + ", not a file" }

// irregular returns an error if mode is that of neither a file nor a directory.
func irregular(mode fs.FileMode) error {
	switch {
	case mode.IsRegular() || mode.IsDir():
		return nil
	case mode&fs.ModeNamedPipe != 0:
		return &irregularError{"FIFO"}
	case mode&fs.ModeSocket != 0:
		return &irregularError{"socket"}
	case mode&fs.ModeDevice != 0:
		return &irregularError{"device"}
	}
	return &irregularError{"special file"}
}

// checkRegular refuses special files in the place of the files of this package. Open calls it
// before it opens one.
func checkRegular(path string) error {
	for _, name := range []string{lockName, ownerName, identityName, journalName, idsName} {
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil {
			continue // the open has the same error
		}
		if err := irregular(info.Mode()); err != nil {
			return &AccessError{Dir: path, Op: "open " + name, Err: err}
		}
	}
	return nil
}

// checkRegularBelow refuses special files, and folders that cannot be read, anywhere in the
// folder data of dir: the server would wait for the first and skip the second. Open calls it
// under the lock. It does not follow links to folders, but data itself may be one.
func checkRegularBelow(dir, data string) error {
	return filepath.WalkDir(data+string(filepath.Separator), func(path string, e fs.DirEntry, err error) error {
		switch {
		case err == nil:
			err = irregularEntry(path, e)
		case e != nil && slices.Contains(ignoredNames, e.Name()):
			return fs.SkipDir
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		name, relErr := filepath.Rel(dir, path)
		if relErr != nil {
			name = path
		}
		return &AccessError{Dir: dir, Op: "open " + name, Err: err}
	})
}

// irregularEntry is irregular for an entry of a folder, or for what a link points to.
func irregularEntry(path string, e fs.DirEntry) error {
	if e.Type()&fs.ModeSymlink == 0 {
		return irregular(e.Type())
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return irregular(info.Mode())
}
