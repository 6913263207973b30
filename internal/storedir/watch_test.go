package storedir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/storedir"
)

func TestCheckNoticesTheLoss(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do   func(dir string) error
		want string
	}{
		"nothing":           {func(string) error { return nil }, ""},
		"LOCK removed":      {func(dir string) error { return os.Remove(filepath.Join(dir, "LOCK")) }, "LOCK was removed"},
		"directory removed": {os.RemoveAll, "the directory was removed"},
		"directory moved":   {func(dir string) error { return os.Rename(dir, dir+"2") }, "the directory was removed or moved"},
		"data removed":      {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "data")) }, "data was removed"},
		"parent is a file":  {replaceParent, "the directory was removed or moved"},
		"LOCK replaced": {func(dir string) error {
			lock := filepath.Join(dir, "LOCK")
			if err := os.Rename(lock, lock+"2"); err != nil {
				return err
			}
			return os.WriteFile(lock, nil, 0o600)
		}, "LOCK was replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := newDir(t)
			d := open(t, dir)
			if err := tc.do(dir); err != nil {
				t.Skipf("SKIPPED: this system does not allow that: %v", err)
			}
			err := d.Check()
			if lost, ok := err.(*storedir.LostError); ok != (tc.want != "") || ok && !strings.Contains(lost.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// The check before each acknowledgement looks at data. It looks at LOCK where that is the only lock.
func TestCheckPresent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		lose       func(dir string) error
		locked     string // what it says of a directory that is locked itself
		lockedLess string // and of one of which only LOCK is locked
	}{
		"nothing":           {func(string) error { return nil }, "", ""},
		"LOCK removed":      {func(dir string) error { return os.Remove(filepath.Join(dir, "LOCK")) }, "", "LOCK was removed"},
		"data removed":      {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "data")) }, "data was removed", "data was removed"},
		"directory removed": {os.RemoveAll, "the directory was removed", "the directory was removed"},
		"directory moved":   {func(dir string) error { return os.Rename(dir, dir+"2") }, "the directory was removed or moved", "the directory was removed or moved"},
		"parent moved":      {func(dir string) error { return os.Rename(filepath.Dir(dir), filepath.Dir(dir)+"2") }, "the directory was removed or moved", "the directory was removed or moved"},
	} {
		for _, onlyFile := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, only LOCK is locked %v", name, onlyFile), func(t *testing.T) {
				t.Parallel()
				d := open(t, filepath.Join(t.TempDir(), "parent", "bus"))
				want := tc.locked
				if onlyFile {
					d.UnlockSelf()
					want = tc.lockedLess
				}
				if err := tc.lose(d.Path()); err != nil {
					t.Skipf("SKIPPED: this system does not allow that: %v", err)
				}
				err := d.CheckPresent()
				if lost, ok := err.(*storedir.LostError); ok != (want != "") || ok && !strings.Contains(lost.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			})
		}
	}
}

// replaceParent puts a file in the place of the parent of dir.
func replaceParent(dir string) error {
	parent := filepath.Dir(dir)
	if err := os.Rename(parent, parent+"2"); err != nil {
		return err
	}
	return os.WriteFile(parent, nil, 0o600)
}

// A directory whose LOCK was removed is still locked, and so is one that was moved.
func TestLockWithoutItsFile(t *testing.T) {
	t.Parallel()
	dir, _ := newDir(t)
	open(t, dir)
	if err := os.Remove(filepath.Join(dir, "LOCK")); err != nil {
		t.Skipf("SKIPPED: this system does not allow that: %v", err)
	}
	refused[*storedir.LockedError](t, dir)
	moved := dir + "2"
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	refused[*storedir.LockedError](t, moved)
}

// The folders of streams are watched. The server may remove and create them as it likes.
func TestFolders(t *testing.T) {
	t.Parallel()
	at := time.Now()
	for name, tc := range map[string]struct {
		change func(t *testing.T, folder string, created map[string]time.Time)
		want   string
	}{
		"nothing":  {func(*testing.T, string, map[string]time.Time) {}, ""},
		"removed":  {func(t *testing.T, folder string, _ map[string]time.Time) { removeAll(t, folder) }, "S was removed"},
		"no msgs":  {func(t *testing.T, folder string, _ map[string]time.Time) { removeAll(t, filepath.Join(folder, "msgs")) }, "S was removed"},
		"replaced": {func(t *testing.T, folder string, _ map[string]time.Time) { renew(t, folder) }, "S was replaced"},
		"deleted": {func(t *testing.T, folder string, created map[string]time.Time) {
			removeAll(t, folder)
			delete(created, "S")
		}, ""},
		"created again": {func(t *testing.T, folder string, created map[string]time.Time) {
			renew(t, folder)
			created["S"] = at.Add(1)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := newDir(t)
			d := open(t, dir)
			folder := filepath.Join(dir, "data", "jetstream", "$G", "streams", "S")
			write(t, filepath.Join(folder, "msgs", "1.blk"), "")
			created := map[string]time.Time{"S": at}
			f := d.Folders("$G", func() (map[string]time.Time, error) { return created, nil })
			check(t, f, "")
			tc.change(t, folder, created)
			check(t, f, "") // the server may be at it
			check(t, f, tc.want)
			if tc.want == "" {
				check(t, f, "")
			}
		})
	}
}

func check(t *testing.T, f *storedir.Folders, want string) {
	t.Helper()
	err := f.Check()
	if lost, ok := err.(*storedir.LostError); ok != (want != "") || ok && !strings.Contains(lost.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func removeAll(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// renew puts a folder in the place of another.
func renew(t *testing.T, folder string) {
	t.Helper()
	if err := os.Rename(folder, folder+"2"); err != nil { // so that it keeps its number
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "msgs", "1.blk"), "")
}
