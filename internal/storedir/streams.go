package storedir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What the server writes, in the order in which it writes it: when it makes a
// stream the folder, its two subfolders with an empty block, the configuration
// and then the checksum of that, each by way of a temporary file, so each is
// either whole or not there. When it changes a stream the same two files again.
// When it removes one it removes the configuration, and then puts removedPrefix
// before the folder's name and removes what is in it.
const (
	serverName    = "jetstream" // data/jetstream/<account>/streams/<stream>
	streamsName   = "streams"
	configName    = "meta.inf"
	sumName       = "meta.sum"
	messagesName  = "msgs"
	consumersName = "obs"
	blockSuffix   = ".blk"
	keySuffix     = ".key"
	probePrefix   = "_test_"
	removedPrefix = "."
)

// largestEmptyBlock is how many bytes of a block cannot be a message. A stream
// that is made with a first sequence above 1 has a mark of that size.
const largestEmptyBlock = 30

// Streams returns the names of the streams in dir, sorted, without those whose
// making was not finished or whose removal had begun. dir need not exist. It
// returns [*AccessError].
func Streams(dir string) ([]string, error) {
	var names []string
	err := eachStream(filepath.Join(dir, dataName), func(path string) error {
		name := filepath.Base(path)
		if strings.HasPrefix(name, removedPrefix) {
			return nil
		}
		unborn, err := isUnborn(path)
		if err == nil && !unborn {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return nil, &AccessError{Dir: dir, Op: "look for streams", Err: err}
	}
	slices.Sort(names)
	return names, nil
}

// eachStream calls f with the path of each stream's folder in the server's data,
// until f returns an error.
func eachStream(data string, f func(path string) error) error {
	return eachFolder(filepath.Join(data, serverName), func(account string) error {
		return eachFolder(filepath.Join(account, streamsName), f)
	})
}

// eachFolder calls f with the path of each folder in path, which may be absent.
func eachFolder(path string, f func(path string) error) error {
	entries, err := readDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		folder := filepath.Join(path, e.Name())
		info, err := os.Stat(folder) // it may be a link to one
		if err == nil && info.IsDir() {
			err = f(folder)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readDir is os.ReadDir for a folder that may be absent.
func readDir(path string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// isUnborn reports whether the folder is of a stream whose making was never
// finished, so that nobody was told that it exists and no message can be in it:
// without a checksum, without messages and consumers, and with nothing that the
// server would not have written until then.
func isUnborn(path string) (bool, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".tmp")
		var ok bool
		switch {
		case e.Name() == messagesName:
			ok, err = holds(filepath.Join(path, e.Name()), isEmptyBlock)
		case e.Name() == consumersName:
			ok, err = holds(filepath.Join(path, e.Name()), nil)
		case e.Name() == sumName:
			ok, err = isSmall(e, 0)
		default:
			ok = name == configName || name == sumName || strings.HasSuffix(name, keySuffix) || strings.HasPrefix(name, probePrefix)
		}
		if err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// holds reports whether the folder has only entries that fit, none where fit is nil.
func holds(path string, fit func(fs.DirEntry) (bool, error)) (bool, error) {
	entries, err := readDir(path)
	for _, e := range entries {
		if fit == nil {
			return false, err
		}
		if ok, err := fit(e); err != nil || !ok {
			return false, err
		}
	}
	return true, err
}

func isEmptyBlock(e fs.DirEntry) (bool, error) {
	if strings.HasSuffix(e.Name(), keySuffix) {
		return true, nil
	}
	if !strings.HasSuffix(e.Name(), blockSuffix) {
		return false, nil
	}
	return isSmall(e, largestEmptyBlock)
}

func isSmall(e fs.DirEntry, most int64) (bool, error) {
	info, err := e.Info()
	if err != nil {
		return false, err
	}
	return info.Mode().IsRegular() && info.Size() <= most, nil
}
