package storedir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The way home is the move of streams from another server into a directory. Their data get a
// folder of their own, so that what is in the directory stays as it was until the commit.
//
// States: as those of a [Move] from the directory. [OpenHome] makes the folder, [Dir.BeginMove]
// writes the journal, and [Dir.CommitHome] has the identity name the folder. The journal stays until
// the other server knows of that: see [Dir.Untold]. From begun back to
// none: [Dir.EndMove] and [Dir.Close], which removes the folder. Until the commit the streams of the other server count.

// homePrefix begins the names of folders with streams that came home. The ID of the move follows.
const homePrefix = "home-"

// data returns the name of the folder that the server runs on.
func (id Identity) data() string {
	if id.Home == nil {
		return dataName
	}
	return homePrefix + id.Home.ID
}

// isFolderPart reports whether an ID can be a part of the name of a folder.
func isFolderPart(id string) bool {
	return id != "" && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// OpenHome is [Open] for the way home with an ID: the streams of the directory were moved, or it
// has none. [Dir.Data] is a new folder. Until [Dir.CommitHome] nothing says that it counts.
func OpenHome(dir, id string) (*Dir, error) { return open(dir, Node{}, id) }

// prepareHome makes sure that the streams of the directory are elsewhere. prepare calls it.
func (d *Dir) prepareHome(id string) error {
	if !isFolderPart(id) {
		return &AccessError{Dir: d.path, Op: "bring streams home to", Err: fmt.Errorf("the id %.64q is no part of a name of a folder", id)}
	}
	d.data = homePrefix + id
	if d.identity.Moved != nil {
		return nil
	}
	streams, err := Streams(d.path)
	if err == nil && len(streams) > 0 {
		err = &AccessError{Dir: d.path, Op: "bring streams home to", Err: fmt.Errorf("it holds streams of its own: %s", strings.Join(streams, ", "))}
	}
	return err
}

// Sync has all files in [Dir.Data] on the disk, as they are. If something writes there meanwhile, it
// leaves out what comes or goes. When ctx ends it returns the cause, after the file that it syncs.
func (d *Dir) Sync(ctx context.Context) error {
	err := filepath.WalkDir(d.Data(), func(path string, e os.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return unlessGone(err)
		case e.IsDir():
			return unlessGone(syncDir(path))
		case !e.Type().IsRegular():
			return nil
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return unlessGone(err)
		}
		return errors.Join(f.Sync(), f.Close())
	})
	if err != nil {
		return &AccessError{Dir: d.path, Op: "sync " + d.data, Err: err}
	}
	return nil
}

// unlessGone returns err, or nil if it says that there is no such file.
func unlessGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// CommitHome records that the streams are in the folder now. When it returns nil, that is on
// the disk, and programs that do not know the folder refuse the directory from now on. After
// an error they are where they were, also after a crash, unless the error is ErrUndecided.
func (d *Dir) CommitHome(m Move) error {
	m.Subjects = nil
	id := d.identity
	id.Format, id.Moved, id.Home = FormatHome, nil, &m
	return d.commit(id)
}

// Untold returns the way home that is committed while the other server may not know of it. ok is
// false after [Dir.EndMove], and if there is none.
func (d *Dir) Untold() (m Move, ok bool) {
	m, ok, err := readJournal(d.path)
	return m, ok && err == nil && d.identity.cameHome(m)
}

// cameHome reports whether the streams have come home by m.
func (id Identity) cameHome(m Move) bool { return m.Home && id.Home != nil && id.Home.ID == m.ID }

// RemoveOld removes the folders with streams that are old since a commit. Open does that, too.
func (d *Dir) RemoveOld() error { return d.removeFolders(d.identity.data()) }

// isData reports whether an entry of a directory has a name of a folder for data.
func isData(name string) bool {
	id, home := strings.CutPrefix(name, homePrefix)
	return name == dataName || home && isFolderPart(id)
}

// removeFolders removes the folders for data, except those to keep.
func (d *Dir) removeFolders(keep ...string) error {
	entries, err := readDir(d.path)
	for _, e := range entries {
		if name := e.Name(); isData(name) && !slices.Contains(keep, name) {
			err = errors.Join(err, os.RemoveAll(d.file(name)))
		}
	}
	if err != nil {
		return &AccessError{Dir: d.path, Op: "remove old streams", Err: err}
	}
	return nil
}

// wayHome returns the journal of a way home that was not finished. ok is false if there is none.
func wayHome(path string, id Identity) (m Move, ok bool, err error) {
	m, ok, err = readJournal(path)
	if err != nil || !ok || !m.Home || id.cameHome(m) {
		return Move{}, false, err
	}
	return m, true, nil
}

// UnfinishedHome returns the way home to dir that had begun and was not finished when the last
// process ended. ok is false if there is none. It does not lock dir.
func UnfinishedHome(dir string) (m Move, ok bool) {
	path, id, err := readIdentity(dir)
	if err != nil {
		return Move{}, false
	}
	m, ok, err = wayHome(path, id)
	return m, ok && err == nil
}

// readIdentity reads the identity of a directory without its lock, and returns its absolute path.
func readIdentity(dir string) (path string, id Identity, err error) {
	if path, err = filepath.Abs(dir); err != nil {
		return "", Identity{}, err
	}
	file := filepath.Join(path, identityName)
	raw, err := readSmall(file, maxIdentity)
	if err != nil {
		return "", Identity{}, err
	}
	id, err = parseIdentity(path, file, raw)
	return path, id, err
}
