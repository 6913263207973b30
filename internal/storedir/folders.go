package storedir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Folders looks whether the folders of streams stay where they are while their directory is
// open. The server removes and creates folders itself, so a look needs to know which streams
// the server has. It belongs to one goroutine.
type Folders struct {
	dir     *Dir
	account string
	created func() (map[string]time.Time, error)

	seen     map[string]folder // of each stream by its name, at the latest look
	suspects map[string]string // what happened to folders since the look before
}

// folder is the folder of one stream, as it was first seen.
type folder struct {
	info    os.FileInfo
	created time.Time // of the stream; it distinguishes it from a deleted one of the same name
}

// Folders returns a watch of the folders of the streams of account. created returns the
// creation times of the streams that the server has now. It is called only for new, missing
// and replaced folders.
func (d *Dir) Folders(account string, created func() (map[string]time.Time, error)) *Folders {
	return &Folders{dir: d, account: account, created: created,
		seen: make(map[string]folder), suspects: make(map[string]string)}
}

// Check returns a [*LostError] if the folder of a stream, or the messages in it, were removed,
// moved or replaced, and the server still has the stream. It says so at the second look at
// which that is the case: the server may be removing the stream at this moment.
func (f *Folders) Check() error {
	present := f.present()
	suspects, fresh := f.compare(present)
	if len(suspects) == 0 && len(fresh) == 0 {
		clear(f.suspects)
		return nil
	}
	created, err := f.created()
	if err != nil {
		return nil //nolint:nilerr // the server is stopping, or has a fault that its health tells
	}
	err = f.judge(suspects, created)
	f.remember(fresh, created)
	return err
}

// path returns the path of the folder of a stream.
func (f *Folders) path(stream string) string {
	return filepath.Join(f.dir.Data(), jetstreamName, f.account, streamsName, stream)
}

// present returns the folders of streams that have messages.
func (f *Folders) present() map[string]os.FileInfo {
	entries, err := readDir(f.path(""))
	if err != nil {
		return nil
	}
	found := make(map[string]os.FileInfo, len(entries))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), removedPrefix) {
			continue
		}
		if info := f.stat(e.Name()); info != nil {
			found[e.Name()] = info
		}
	}
	return found
}

// stat returns the folder of a stream, or nil if there is none with messages.
func (f *Folders) stat(stream string) os.FileInfo {
	path := f.path(stream)
	if _, err := os.Stat(filepath.Join(path, messagesName)); err != nil {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return info
}

// compare returns what happened to folders that were seen, and the names of new ones.
func (f *Folders) compare(present map[string]os.FileInfo) (suspects map[string]string, fresh []string) {
	suspects = make(map[string]string)
	for stream, was := range f.seen {
		now := present[stream]
		switch {
		case now == nil:
			suspects[stream] = "was removed or moved"
		case !os.SameFile(was.info, now):
			suspects[stream] = "was replaced"
		}
	}
	for stream := range present {
		if _, seen := f.seen[stream]; !seen {
			fresh = append(fresh, stream)
		}
	}
	return suspects, fresh
}

// judge forgets the streams that were deleted, also if others have their names now, and returns
// an error for one that the server has and that was suspect at the look before too.
func (f *Folders) judge(suspects map[string]string, created map[string]time.Time) (err error) {
	for stream, what := range suspects {
		at, has := created[stream]
		switch {
		case !has || !at.Equal(f.seen[stream].created):
			delete(f.seen, stream)
			delete(suspects, stream)
		case f.suspects[stream] != "":
			name := filepath.Join(f.dir.data, jetstreamName, f.account, streamsName, stream)
			err = &LostError{Dir: f.dir.path, What: fmt.Sprintf("its folder %s %s", name, what), Remedy: "restore the directory"}
		}
	}
	f.suspects = suspects
	return err
}

// remember keeps new folders of streams that the server has. It looks at them again: created
// must not be of a later stream of the same name than the folder.
func (f *Folders) remember(fresh []string, created map[string]time.Time) {
	for _, stream := range fresh {
		at, has := created[stream]
		if info := f.stat(stream); has && info != nil {
			f.seen[stream] = folder{info, at}
		}
	}
}
