package storedir

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// tempName returns the name under which the file name is written first. It is
// always the same, since only the holder of the lock writes: at most one is
// ever left.
func tempName(name string) string { return name + ".tmp" }

// writeFile replaces a file such that after a crash or power cut there is
// either the old one or the whole new one.
func writeFile(path string, data []byte) error {
	temp := tempName(path)
	if err := remove(temp); err != nil {
		return err
	}
	if err := writeSynced(temp, data); err != nil {
		return errors.Join(err, remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, remove(temp))
	}
	return syncDir(filepath.Dir(path))
}

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

// remove is os.Remove for a file that may be gone.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func checkDir(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = &os.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	return err
}
