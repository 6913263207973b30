package storedir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The names of the files of the server.
//
// To create a stream the server creates the folder, the two subfolders with an empty block,
// the configuration, and then the checksum of the configuration. It writes each file by a
// temporary file, so a file is complete or does not exist. To change a stream it writes the
// last two files again. To remove a stream it removes the configuration, then puts
// removedPrefix before the name of the folder, and then removes the content.
const (
	jetstreamName = "jetstream" // data/jetstream/<account>/streams/<stream>
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

// maxEmptyBlock is the largest size, in bytes, of a block without messages. A stream that is
// created with a first sequence above 1 has a block of that size.
const maxEmptyBlock = 30

// Streams returns the names of the streams in dir, sorted. It leaves out streams whose
// creation was not finished or whose removal had begun. dir need not exist. It fails with an
// [*AccessError].
func Streams(dir string) ([]string, error) {
	var names []string
	data := dataName
	if _, id, err := readIdentity(dir); err == nil { // else Open says what is wrong
		data = id.data()
	}
	err := eachStream(filepath.Join(dir, data), func(path string) error {
		name := filepath.Base(path)
		if strings.HasPrefix(name, removedPrefix) {
			return nil
		}
		unfinished, err := isUnfinished(path)
		if err == nil && !unfinished {
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

// FinishRemoval removes what is left of a removed stream. Call it before a stream of the same
// name is removed. The server removes the content of a folder on a goroutine of its own. If the
// next stream of that name is removed before that is done, the server cannot rename the folder:
// it stays, and its messages come back with the next stream of the name.
func (d *Dir) FinishRemoval(name string) error {
	if name == "" || strings.ContainsAny(name, `./\`) {
		return nil // no stream has such a name, and the path would lead elsewhere
	}
	err := eachFolder(filepath.Join(d.Data(), jetstreamName), func(account string) error {
		return os.RemoveAll(filepath.Join(account, streamsName, removedPrefix+name))
	})
	if err != nil {
		return &AccessError{Dir: d.path, Op: "finish the removal of a stream", Err: err}
	}
	return nil
}

// eachStream calls f with the path of the folder of each stream, until f returns an error.
func eachStream(data string, f func(path string) error) error {
	return eachFolder(filepath.Join(data, jetstreamName), func(account string) error {
		return eachFolder(filepath.Join(account, streamsName), f)
	})
}

// eachFolder calls f with the path of each folder in path. path need not exist.
func eachFolder(path string, f func(path string) error) error {
	entries, err := readDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		folder := filepath.Join(path, e.Name())
		info, err := os.Stat(folder) // it may be a link to a folder
		if err == nil && info.IsDir() {
			err = f(folder)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readDir returns the entries of a folder, none if it does not exist.
func readDir(path string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// isUnfinished reports whether the folder is that of a stream whose creation was never
// finished. Then no client knows of the stream and no message is in it. Such a folder has no
// checksum, no messages, no consumers, and nothing that the server writes later.
func isUnfinished(path string) (bool, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".tmp")
		var ok bool
		switch {
		case e.Name() == messagesName:
			ok, err = hasOnly(filepath.Join(path, e.Name()), isEmptyBlock)
		case e.Name() == consumersName:
			ok, err = hasOnly(filepath.Join(path, e.Name()), nil)
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

// hasOnly reports whether the folder has only entries that fit. If fit is nil it must have no
// entries.
func hasOnly(path string, fit func(fs.DirEntry) (bool, error)) (bool, error) {
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

// isEmptyBlock reports whether an entry of msgs is a block without messages, or a key.
func isEmptyBlock(e fs.DirEntry) (bool, error) {
	if strings.HasSuffix(e.Name(), keySuffix) {
		return true, nil
	}
	if !strings.HasSuffix(e.Name(), blockSuffix) {
		return false, nil
	}
	return isSmall(e, maxEmptyBlock)
}

// isSmall reports whether e is a file of at most limit bytes.
func isSmall(e fs.DirEntry, limit int64) (bool, error) {
	info, err := e.Info()
	if err != nil {
		return false, err
	}
	return info.Mode().IsRegular() && info.Size() <= limit, nil
}
