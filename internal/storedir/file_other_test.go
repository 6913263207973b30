//go:build !windows

package storedir_test

import (
	"fmt"
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
	for _, test := range []struct {
		dir, file fs.FileMode
		reported  []string
	}{
		{0o755, 0o600, nil}, // that of t.TempDir: others see names, and no data
		{0o775, 0o600, []string{"has mode 0775"}},
		{0o700, 0o640, []string{"omnibus.json has mode 0640"}},
		{0o777, 0o604, []string{"has mode 0777", "omnibus.json has mode 0604"}},
	} {
		t.Run(fmt.Sprintf("%o,%o", test.dir, test.file), func(t *testing.T) {
			t.Parallel()
			dir, _ := newDir(t)
			for path, mode := range map[string]fs.FileMode{dir: test.dir, filepath.Join(dir, "omnibus.json"): test.file} {
				if err := os.Chmod(path, mode); err != nil {
					t.Fatal(err)
				}
			}
			d := open(t, dir)
			if !slices.EqualFunc(d.Warnings, test.reported, strings.Contains) {
				t.Errorf("Warnings = %q", d.Warnings)
			}
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != test.dir {
				t.Errorf("the mode was changed: %v, %v", info.Mode(), err)
			}
		})
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
