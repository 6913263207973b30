//go:build !windows

package storedir_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/omnibus-go/bus/internal/storedir"
)

func TestModes(t *testing.T) {
	t.Parallel()
	parent := filepath.Join(t.TempDir(), "lib")
	dir := filepath.Join(parent, "bus")
	c := startChild(t, dir) // has umask 0
	for path, want := range map[string]fs.FileMode{
		parent:                             fs.ModeDir | 0o700,
		dir:                                fs.ModeDir | 0o700,
		filepath.Join(dir, "data"):         fs.ModeDir | 0o700,
		filepath.Join(dir, "omnibus.json"): 0o600,
		filepath.Join(dir, "LOCK"):         0o600,
		filepath.Join(dir, "OWNER"):        0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
	c.stop(t)
}

func TestLooseModesAreReported(t *testing.T) {
	t.Parallel()
	dir, _ := newDir(t)
	file := filepath.Join(dir, "omnibus.json")
	for path, mode := range map[string]fs.FileMode{dir: 0o755, file: 0o640} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	d := open(t, dir)
	if len(d.Warnings) != 2 || !strings.Contains(d.Warnings[0], "0755") || !strings.Contains(d.Warnings[1], file+" has mode 0640") {
		t.Errorf("Warnings = %q", d.Warnings)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the mode was changed: %v, %v", info.Mode(), err)
	}
}

func TestReadOnlyAdvice(t *testing.T) {
	t.Parallel()
	err := &storedir.AccessError{Dir: "/srv/bus", Op: "create", Err: &os.PathError{Op: "mkdir", Path: "/srv/bus", Err: syscall.EROFS}}
	if !strings.Contains(err.Error(), "mounted read-only") {
		t.Error(err)
	}
}

func TestDanglingLink(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	link := filepath.Join(parent, "link")
	if err := os.Symlink(filepath.Join(parent, "nowhere"), link); err != nil {
		t.Fatal(err)
	}
	refused[*storedir.AccessError](t, link)
	if got := names(t, parent); !slices.Equal(got, []string{"link"}) {
		t.Errorf("it made %q", got)
	}
}
