package storedir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// tempName returns the name of the temporary file for name. It is always the same, because
// only the owner of the lock writes. So a crash leaves at most one.
func tempName(name string) string { return name + ".tmp" }

// writeFile replaces a file. After a crash or a power cut there is either the old file or the
// complete new one. After an error there is the old one, unless the error is an *undecidedError.
func writeFile(path string, data []byte) error {
	temp := tempName(path)
	if err := remove(temp); err != nil {
		return err
	}
	if err := writeSynced(temp, data); err != nil {
		return errors.Join(err, remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return &undecidedError{errors.Join(err, remove(temp))}
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return &undecidedError{err}
	}
	return nil
}

// undecidedError is the error of a replacement of which nobody knows whether it is on the disk.
type undecidedError struct{ err error }

func (e *undecidedError) Error() string { return e.err.Error() }
func (e *undecidedError) Unwrap() error { return e.err }

// writeSynced creates a file and syncs it to the disk.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// remove removes a file if it exists.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// checkDir returns an error if path is not a directory.
func checkDir(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = &os.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	return err
}

// errTooLarge is the error of readSmall for a file above the limit.
var errTooLarge = errors.New("it is too large")

// readSmall returns the content of a file of at most limit bytes. It does not open a FIFO.
func readSmall(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil {
		err = irregular(info.Mode())
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	}
	return raw, errors.Join(err, f.Close())
}
